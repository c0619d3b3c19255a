//! Measures one training update for the sizes in the documentation. `cargo xtask bench` runs it and compares the
//! results.
//!
//! Arguments: a size (`S`, `M`, `V`, or a block size at 4096 tokens per micro-batch), a number of updates, and options:
//! `bf16` for that precision, `recompute` for fewer activations, `avx2` to leave AVX-512 out. It prints one line each for the milliseconds per
//! update, in total and by phase, the lower bound of each phase, the peak memory of the process in MiB with the
//! computed sum of its buffers, and the peak rate of the processor.

mod floors;

use keepstep_lm::config::{OptimizerConfig, Precision};
use keepstep_model::engine::{Batch, Engine, EngineError, EngineSpec};
use keepstep_model::gpt2::{CpuEngine, Gpt2Config, Gpt2Spec, initial_parameters};
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::optimizer_update::OptimizerUpdate;
use keepstep_model::train::train_state::TrainState;
use std::time::Instant;

/// One case to measure.
struct Case {
    model: Gpt2Config,
    batch_size: usize,
    updates: u64,
    precision: Precision,
    recompute: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(case) = case(&arguments) else {
        eprintln!("training: run it through `cargo xtask bench`");
        return;
    };
    // The program, too, trains from a thread of the pool.
    rayon::scope(|_| run(&case));
}

fn run(case: &Case) {
    if let Err(error) = train(case) {
        eprintln!("training: {error}");
        return;
    }
    let Case { model, batch_size, precision, .. } = *case;
    let held = CpuEngine::memory(&spec(case)).total_bytes();
    println!("held {:.1}", held as f64 / f64::from(1 << 20));
    if let Some(peak) = peak_memory() {
        println!("peak {peak:.1}");
    }
    if precision == Precision::Float32 {
        floors::print(&model, batch_size);
    }
}

fn case(arguments: &[String]) -> Option<Case> {
    let [size, updates, options @ ..] = arguments else { return None };
    let model = |n_layer, n_head, n_embd, block_size, vocab_size| Gpt2Config {
        vocab_size,
        block_size,
        n_layer,
        n_head,
        n_embd,
        dropout: 0.0,
        layer_norm_epsilon: 1e-5,
    };
    let (model, batch_size) = match size.as_str() {
        "S" => (model(4, 4, 128, 64, 256), 12),
        "M" => (model(6, 6, 384, 256, 256), 16),
        // GPT-2's large vocabulary.
        "V" => (model(2, 4, 128, 64, 50_257), 64),
        block_size => {
            let block_size = block_size.parse().ok()?;
            (model(2, 4, 128, block_size, 256), 4096 / block_size)
        }
    };
    let has = |option: &str| options.iter().any(|given| given == option);
    if has("avx2") {
        keepstep_numerics::testing::without_avx512();
    }
    Some(Case {
        model,
        batch_size,
        updates: updates.parse().ok()?,
        precision: if has("bf16") { Precision::Bf16 } else { Precision::Float32 },
        recompute: has("recompute"),
    })
}

/// Reads the peak memory of this process, in MiB.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

fn spec(case: &Case) -> EngineSpec<Gpt2Spec> {
    let mut spec = Gpt2Spec::new(case.model, case.batch_size);
    (spec.recompute_activations, spec.precision) = (case.recompute, case.precision);
    EngineSpec::new(spec)
}

fn train(case: &Case) -> Result<(), EngineError> {
    let Case { model, batch_size, updates, .. } = case;
    let layout = model.layout();
    let groups = ParamGroup::from_config(
        &OptimizerConfig { learning_rate: 1e-4, ..OptimizerConfig::default() },
        &layout,
    );
    let state = TrainState::new(layout, initial_parameters(model, 1));
    let mut engine = CpuEngine::new(&spec(case), groups, state)?;
    let mut random = 1_u32;
    let mut tokens = || -> Vec<u32> {
        (0..batch_size * (model.block_size + 1))
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 8) % model.vocab_size as u32
            })
            .collect()
    };
    for global_step in 0..*updates {
        let tokens = tokens();
        let start = Instant::now();
        let mut update = OptimizerUpdate::begin(&mut engine, 1, global_step);
        update.accumulate(&Batch::new(&tokens))?;
        let gradient = start.elapsed();
        update.finish(1.0, 1.0, |_, _| Ok::<(), EngineError>(()))?;
        let all = start.elapsed();
        println!("update {:.3}", all.as_secs_f64() * 1e3);
        println!("gradient {:.3}", gradient.as_secs_f64() * 1e3);
        println!("optimizer {:.3}", (all - gradient).as_secs_f64() * 1e3);
    }
    for _ in 0..updates.div_ceil(2) {
        let tokens = tokens();
        let start = Instant::now();
        engine.evaluate(&Batch::new(&tokens))?;
        println!("loss {:.3}", start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
