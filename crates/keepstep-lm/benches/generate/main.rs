//! Generates text with models of three sizes. `cargo xtask bench generate` runs it and compares the results.
//!
//! Arguments: a size (`S`, `M` or `GPT-2`), the length of the prompt, a number of tokens and a number of rounds. It
//! prints milliseconds per token: of one text, greedy and sampled, with the prompt and from token to token (`step`); of
//! several texts together; of the prompt; and of reading once the weights that every token reads (`read`, in the
//! fastest of many ways). Each round measures all of them. `megabytes` is the size of those weights.

mod reading;

use keepstep_lm::generate::{GenerateOptions, Generator};
use keepstep_model::gpt2::layout::initial_parameters;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_text::tokenizer::Tokenizer;
use std::cell::RefCell;
use std::time::Instant;

/// Numbers of texts that are generated together.
const BATCHES: [usize; 2] = [4, 16];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [size, prompt, tokens, rounds] = arguments.as_slice() else {
        eprintln!("generate: run it through `cargo xtask bench`");
        return;
    };
    let model = match size.as_str() {
        "S" => model(256, 4, 4, 128, 64),
        "M" => model(256, 6, 6, 384, 256),
        _ => model(50_257, 12, 12, 768, 1024),
    };
    let number = |text: &String| text.parse().unwrap_or(1);
    let (prompt, max_new_tokens, rounds) = (number(prompt), number(tokens), number(rounds));
    let prompt: String = (0..prompt).map(|index| char::from(32 + index as u8 % 90)).collect();
    // Of the embedding of positions, a token reads one row.
    let positions = model.block_size * model.n_embd;
    let parameters = initial_parameters(&model, 1);
    let generator = Generator::new(model, parameters.clone(), Tokenizer::bytes());
    let greedy = GenerateOptions { max_new_tokens, temperature: 0.0, top_k: 0, seed: 1 };
    let sampled = GenerateOptions { temperature: 0.8, top_k: 50, ..greedy };
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    };
    let write = |options: &GenerateOptions| {
        time(&mut || drop(generator.generate(&prompt, options, &|| false))) / options.max_new_tokens as f64
    };
    // The median time between two tokens, which leaves out the prompt and what disturbs a few tokens.
    let step = |options: &GenerateOptions| {
        let begun = RefCell::new(Vec::with_capacity(options.max_new_tokens));
        let note = || {
            begun.borrow_mut().push(Instant::now());
            false
        };
        drop(generator.generate(&prompt, options, &note));
        let begun = begun.into_inner();
        let mut steps: Vec<f64> =
            begun.windows(2).skip(1).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
        steps.sort_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |way| reading::read(&parameters[positions..], threads, way) * 1e3;
    let ways = reading::ways();
    let mut times = vec![Vec::new(); ways.len()];
    let only_one = GenerateOptions { max_new_tokens: 1, ..greedy };
    write(&only_one);
    for _ in 0..rounds {
        for (way, times) in ways.iter().zip(&mut times) {
            times.push(read(*way));
        }
        println!("megabytes {:.4}", (parameters.len() - positions) as f64 * 4e-6);
        println!("prompt {:.3}", write(&only_one));
        println!("greedy {:.4}", write(&greedy));
        println!("sampled {:.4}", write(&sampled));
        println!("greedy-step {:.4}", step(&greedy));
        println!("sampled-step {:.4}", step(&sampled));
        for count in BATCHES {
            let mut samples = || drop(generator.samples(&prompt, &sampled, count, &|| false, &mut |_| ()));
            println!("together-{count} {:.4}", time(&mut samples) / (count * max_new_tokens) as f64);
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    times.sort_by(|one, other| one[rounds / 2].total_cmp(&other[rounds / 2]));
    times.first().into_iter().flatten().for_each(|time| println!("read {time:.4}"));
}

fn model(vocab_size: usize, n_layer: usize, n_head: usize, n_embd: usize, block_size: usize) -> Gpt2Config {
    Gpt2Config { vocab_size, block_size, n_layer, n_head, n_embd, dropout: 0.0, layer_norm_epsilon: 1e-5 }
}
