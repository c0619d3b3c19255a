//! Saving and loading a large state, and resuming at the start and deep inside an epoch; `cargo xtask bench` calls it.
//!
//! Arguments: `save FOLDER MIB` or `resume FOLDER STEP`. It prints `what milliseconds`, one line each.

use keepstep::checkpoint::{Checkpoint, State};
use keepstep::identity::Identity;
use keepstep::name::checkpoint_name;
use keepstep::position::{Length, Plan, Position};
use keepstep::run::{Policy, Run, Sizes};
use keepstep::store::{Disk, Store};
use keepstep_pt::{Archive, Dict, File, Tensor, Value};
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["save", folder, mebibytes] => save(Path::new(folder), mebibytes.parse()?),
        ["resume", folder, step] => resume(Path::new(folder), step.parse()?),
        _ => {
            eprintln!("store: run it through `cargo xtask bench`");
            Ok(())
        }
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let start = Instant::now();
    let result = work()?;
    println!("{what} {:.1}", start.elapsed().as_secs_f64() * 1e3);
    Ok(result)
}

/// A state of 16 tensors.
fn save(folder: &Path, mebibytes: usize) -> Result<(), Box<dyn Error>> {
    const TENSORS: usize = 16;
    let len = mebibytes * (1 << 20) / 4 / TENSORS;
    let values: Vec<f32> = (0..len).map(|index| index as f32).collect();
    let mut dict = Dict::new();
    for index in 0..TENSORS {
        dict.insert(format!("tensor{index}").as_str(), Tensor::from_slice(&values, vec![len]));
    }
    let plan = Plan::new(2, 1, Length { epochs: 1, total_steps: None }, Position::START);
    let position = Position { epoch: 1, step: 1, global_step: 1 };
    let state = State::of_training(dict, Value::None, Value::None);
    let archive = Archive::new(&Checkpoint::new(Identity::new(1), plan, position, state).to_value());
    std::fs::create_dir_all(folder)?;

    let raw = folder.join("raw");
    let bytes: &[u8] = bytemuck::cast_slice(&values);
    let mut store = Store::open(folder, Arc::new(Disk))?;
    let path = folder.join("checkpoint_epoch1_step1_global1.pt");
    let name = "checkpoint_epoch1_step1_global1.pt";
    for round in 0..4 {
        let write_raw = || {
            timed("raw", || {
                let mut file = std::fs::File::create(&raw)?;
                for _ in 0..TENSORS {
                    // The parts in which a file is written fastest here; whole tensors take longer.
                    for part in bytes.chunks(1 << 18) {
                        file.write_all(part)?;
                    }
                }
                file.sync_all()?;
                Ok(std::fs::File::open(folder)?.sync_all()?)
            })?;
            Ok::<_, Box<dyn Error>>(std::fs::remove_file(&raw)?)
        };
        if round % 2 == 0 {
            write_raw()?;
        }
        let start = Instant::now();
        store.publish(name, &archive)?;
        let publish = start.elapsed();
        let start = Instant::now();
        File::open(&path)?.verify()?;
        let verify = start.elapsed();
        println!("publish {:.1}", publish.as_secs_f64() * 1e3);
        println!("verify {:.1}", verify.as_secs_f64() * 1e3);
        // Publishing ends with just such a reading; before it, the file is durable.
        println!("durable {:.1}", publish.saturating_sub(verify).as_secs_f64() * 1e3);
        if round < 3 {
            std::fs::remove_file(&path)?;
        }
        if round % 2 == 1 {
            write_raw()?;
        }
    }
    timed("load", || {
        let file = File::open(&path)?;
        let checkpoint = Checkpoint::from_value(file.value())?;
        let dict = checkpoint.state.get("model").and_then(Value::as_dict).ok_or("a dict")?;
        let mut buffer = vec![0.0_f32; len];
        for (_, value) in dict.iter() {
            value.as_tensor().ok_or("a tensor")?.read_into(&mut buffer)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// A run that stands at `step` of an epoch of 2 * 10^8 steps.
fn resume(folder: &Path, step: u64) -> Result<(), Box<dyn Error>> {
    const STEPS: u64 = 200_000_000;
    let identity = Identity::new(1).with("learning_rate", 0.1);
    let plan = Plan::new(STEPS, 1, Length { epochs: 1, total_steps: None }, Position::START);
    let position = Position { epoch: 1, step, global_step: step };
    let mut model = Dict::new();
    model.insert("weight", Tensor::from_slice(&[1.0_f32; 1024], vec![1024]));
    let state = State::of_training(model, Value::None, Value::None);
    let checkpoint = Checkpoint::new(identity.clone(), plan, position, state);
    let archive = Archive::new(&checkpoint.to_value());
    Store::open(folder, Arc::new(Disk))?.publish(&checkpoint_name(&plan, position), &archive)?;
    timed("resume", || {
        let run = Run::open(folder, identity, Sizes::new(STEPS, 1), Policy::default())?;
        let update = run.next_update().ok_or("an update")?;
        let sample = run.order(update.epoch, STEPS).sample(update.micro_batches.start);
        assert!(sample < STEPS);
        Ok(())
    })
}
