//! Dispatches to the commands. Each is one file or one folder.

mod branch;
mod destination;
mod diff;
mod dry_run;
#[cfg(feature = "hub")]
mod export;
mod generate;
mod history;
mod import;
mod inspect;
mod kaggle;
mod list;
mod prove;
mod pull;
mod push;
mod relay;
mod report;
mod train;
mod verify;

pub use prove::KillPlan;

use crate::arguments::Command;
use crate::failure::{Failure, status};

/// Runs a command and gives the program's exit status.
pub(crate) fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Train(arguments) if arguments.dry_run => dry_run::run(&arguments).map(|()| status::DONE),
        Command::Train(arguments) => train::run(&arguments),
        Command::Branch(arguments) => branch::run(&arguments).map(|()| status::DONE),
        Command::Import(arguments) => import::run(&arguments).map(|()| status::DONE),
        #[cfg(feature = "hub")]
        Command::Export(arguments) => export::run(&arguments).map(|()| status::DONE),
        Command::Generate(arguments) => generate::run(&arguments).map(|()| status::DONE),
        Command::List { run, json } => list::run(&run, json).map(|()| status::DONE),
        Command::Inspect { checkpoint, json } => inspect::run(&checkpoint, json).map(|()| status::DONE),
        Command::Prove(arguments) => prove::run(&arguments).map(|()| status::DONE),
        Command::History { run, json } => history::run(&run, json).map(|()| status::DONE),
        Command::Report { run, out } => report::run(&run, &out).map(|()| status::DONE),
        Command::Verify { path } => verify::run(&path).map(|()| status::DONE),
        Command::Push(arguments) => push::run(&arguments).map(|()| status::DONE),
        Command::Relay(arguments) => relay::run(&arguments),
        Command::Pull(arguments) => pull::run(&arguments).map(|()| status::DONE),
        Command::Diff { left, right } => {
            diff::run(&left, &right).map(|same| if same { status::DONE } else { status::DIFFERENT })
        }
    }
}
