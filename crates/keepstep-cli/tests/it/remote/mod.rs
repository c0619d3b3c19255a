//! Runs that are copied to a place that outlives the machine.

mod commands;
mod places;
mod proxy;
mod wiped;
mod wire;
