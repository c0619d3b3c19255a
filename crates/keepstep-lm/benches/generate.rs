//! Generates text with models of three sizes. `cargo xtask bench generate` runs it and compares the results.
//!
//! Arguments: a size (`S`, `M` or `GPT-2`), the length of the prompt and a number of tokens. It prints milliseconds per
//! token for greedy decoding, for sampled decoding, and for the prompt.

use keepstep_lm::generate::{GenerateOptions, Generator};
use keepstep_model::gpt2::layout::initial_parameters;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_text::tokenizer::Tokenizer;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [size, prompt, tokens] = arguments.as_slice() else {
        eprintln!("generate: run it through `cargo xtask bench`");
        return;
    };
    let model = match size.as_str() {
        "S" => model(256, 4, 4, 128, 64),
        "M" => model(256, 6, 6, 384, 256),
        _ => model(50_257, 12, 12, 768, 1024),
    };
    let (prompt, max_new_tokens) = (prompt.parse().unwrap_or(1), tokens.parse().unwrap_or(1));
    let prompt: String = (0..prompt).map(|index: u8| char::from(32 + index % 90)).collect();
    let parameters = initial_parameters(&model, 1);
    let generator = Generator::new(model, parameters, Tokenizer::bytes());
    let greedy = GenerateOptions { max_new_tokens, temperature: 0.0, top_k: 0, seed: 1 };
    let sampled = GenerateOptions { temperature: 0.8, top_k: 50, ..greedy };
    let write = |options: &GenerateOptions| {
        let start = Instant::now();
        let _ = generator.generate(&prompt, options, &|| false);
        start.elapsed().as_secs_f64() * 1e3
    };
    write(&GenerateOptions { max_new_tokens: 2, ..greedy });
    for _ in 0..3 {
        println!("prompt {:.3}", write(&GenerateOptions { max_new_tokens: 1, ..greedy }));
        println!("greedy {:.4}", write(&greedy) / max_new_tokens as f64);
        println!("sampled {:.4}", write(&sampled) / max_new_tokens as f64);
    }
}

fn model(vocab_size: usize, n_layer: usize, n_head: usize, n_embd: usize, block_size: usize) -> Gpt2Config {
    Gpt2Config { vocab_size, block_size, n_layer, n_head, n_embd, dropout: 0.0, layer_norm_epsilon: 1e-5 }
}
