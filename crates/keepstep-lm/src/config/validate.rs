//! Checks of values, beyond their type.

use super::{Config, ConfigError, ScheduleKind, TokenizerSpec};

/// Checks each value, then the values that must fit together.
pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    if config.output_dir.is_empty() {
        return Err(ConfigError::Missing {
            key: "output_dir",
            what: "the folder that the checkpoints go to",
        });
    }
    if config.data.paths.is_empty() && config.data.cargo_packages.is_empty() {
        return Err(ConfigError::Missing { key: "data.paths", what: "the files or globs to train on" });
    }
    let model = &config.model;
    for (key, value, most) in [
        ("epochs", config.epochs, 1 << 32),
        ("batch_size", config.batch_size as u64, 1 << 24),
        ("gradient_accumulation_steps", config.gradient_accumulation_steps, 1 << 32),
        ("save_steps", config.save_steps, u64::MAX),
        ("max_checkpoints", config.max_checkpoints as u64, u64::MAX),
        ("eval_steps", config.eval_steps, u64::MAX),
        ("eval_batches", config.eval_batches.unwrap_or(1), u64::MAX),
        ("total_steps", config.total_steps.unwrap_or(1), 1 << 53),
        ("num_threads", config.num_threads.unwrap_or(1) as u64, 1024),
        ("model.block_size", model.block_size as u64, 1 << 20),
        ("model.n_layer", model.n_layer as u64, 1 << 10),
        ("model.n_head", model.n_head as u64, 1 << 12),
        ("model.n_embd", model.n_embd as u64, 1 << 16),
    ] {
        if value == 0 || value > most {
            let expected = if most == u64::MAX {
                "at least 1".to_owned()
            } else {
                format!("at least 1 and at most {most}")
            };
            return Err(ConfigError::Range { key, value: value.to_string(), expected });
        }
    }
    let optimizer = &config.optimizer;
    let small = |value: f64| (0.0..1.0).contains(&value);
    let not_negative = |value: f64| value >= 0.0 && value.is_finite();
    for (key, value, fits, expected) in [
        ("model.dropout", model.dropout, small(model.dropout), "at least 0 and below 1"),
        (
            "model.layer_norm_epsilon",
            model.layer_norm_epsilon,
            model.layer_norm_epsilon > 0.0 && model.layer_norm_epsilon <= 1.0,
            "above 0 and at most 1",
        ),
        (
            "data.validation_fraction",
            config.data.validation_fraction,
            small(config.data.validation_fraction),
            "at least 0 and below 1",
        ),
        (
            "optimizer.learning_rate",
            optimizer.learning_rate,
            optimizer.learning_rate > 0.0 && optimizer.learning_rate.is_finite(),
            "above 0",
        ),
        (
            "optimizer.weight_decay",
            optimizer.weight_decay,
            not_negative(optimizer.weight_decay),
            "at least 0",
        ),
        (
            "optimizer.betas",
            optimizer.betas[0],
            small(optimizer.betas[0]),
            "two numbers of at least 0 and below 1",
        ),
        (
            "optimizer.betas",
            optimizer.betas[1],
            small(optimizer.betas[1]),
            "two numbers of at least 0 and below 1",
        ),
        ("optimizer.eps", optimizer.eps, optimizer.eps > 0.0 && optimizer.eps.is_finite(), "above 0"),
        (
            "optimizer.max_grad_norm",
            optimizer.max_grad_norm,
            not_negative(optimizer.max_grad_norm),
            "at least 0",
        ),
        (
            "schedule.min_lr",
            config.schedule.min_lr,
            not_negative(config.schedule.min_lr) && config.schedule.min_lr <= optimizer.learning_rate,
            "at least 0 and at most optimizer.learning_rate",
        ),
        (
            "sample.temperature",
            config.sample.temperature,
            not_negative(config.sample.temperature),
            "at least 0",
        ),
    ] {
        if !fits {
            return Err(ConfigError::Range { key, value: value.to_string(), expected: expected.to_owned() });
        }
    }
    if !model.n_embd.is_multiple_of(model.n_head) {
        let expected = format!("a multiple of model.n_head, which is {}", model.n_head);
        return Err(ConfigError::Range { key: "model.n_embd", value: model.n_embd.to_string(), expected });
    }
    if let TokenizerSpec::Bpe(size) = config.data.tokenizer
        && !(257..=1 << 24).contains(&size)
    {
        let expected = "a bpe of at least 257 entries: 256 bytes and the end-of-text token".to_owned();
        return Err(ConfigError::Range {
            key: "data.tokenizer",
            value: format!("{{ bpe = {size} }}"),
            expected,
        });
    }
    let schedule = &config.schedule;
    if schedule.kind == ScheduleKind::WarmupStableDecay && schedule.decay_steps == 0 {
        let expected = "at least 1 with kind = \"warmup_stable_decay\"".to_owned();
        return Err(ConfigError::Range { key: "schedule.decay_steps", value: "0".to_owned(), expected });
    }
    for (key, text) in
        [("output_dir", Some(&config.output_dir)), ("cache_dir", config.data.cache_dir.as_ref())]
    {
        if text.is_some_and(|text| text.contains('\0')) {
            let value = "a text with a zero byte".to_owned();
            return Err(ConfigError::Range { key, value, expected: "a path".to_owned() });
        }
    }
    Ok(())
}
