//! Tests of the program as people run it, in one binary that is linked once.

mod advice;
mod bad_input;
mod bf16;
mod commands;
mod crash_consistency;
mod exact_resume;
mod hub;
mod hugging_face;
mod instructions;
mod kaggle;
mod operating_system;
mod quickstart;
mod relay;
#[cfg(feature = "remote")]
mod remote;
mod report;
mod same_bits;
mod sessions;
mod support;
mod tensorboard;
mod torch;
