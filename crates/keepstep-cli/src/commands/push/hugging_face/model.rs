//! The files of a model repository: weights, and a card that says what they are.

use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep_pt::Archive;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The weights of a loop's model, as `torch.save(model.state_dict())` writes them.
const STATE_DICT: &str = "model_state_dict.pt";

/// The input of a run whose checkpoints have a digest of the weights that are not trained, in place of these weights.
const FROZEN: &str = "frozen weights of model";

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder for transformers' `from_pretrained`.
    Transformers,
    /// The state dict of a PyTorch loop's model.
    StateDict,
    /// The state dict without the weights that the loop does not train.
    TrainedWeights,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Transformers => "a model for transformers",
            Kind::StateDict => "a state dict of PyTorch",
            Kind::TrainedWeights => "a state dict of PyTorch without the frozen weights",
        })
    }
}

/// Writes the model of a checkpoint, which lies at `path`, and its card.
pub(super) fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    repository: &str,
    folder: &Path,
) -> Result<Kind, Failure> {
    let kind = if is_engine(checkpoint, path, folder)? {
        Kind::Transformers
    } else {
        write_state_dict(checkpoint, path, folder)?
    };
    let card = folder.join("README.md");
    std::fs::write(&card, text(checkpoint, kind, repository)).map_err(|error| Failure::at(&card, &error))?;
    Ok(kind)
}

/// Exports the model of keepstep's own engine. False if the checkpoint is a loop's.
#[cfg(feature = "hub")]
fn is_engine(checkpoint: &Checkpoint, path: &Path, folder: &Path) -> Result<bool, Failure> {
    use keepstep_lm::hub::export::{ExportError, Format, export};
    let place = path.display().to_string();
    match export(checkpoint, &place, Format::HuggingFace, folder) {
        Ok(_) => Ok(true),
        Err(ExportError::Checkpoint(_)) => Ok(false),
        Err(error) => Err(Failure::about(1, &place, &error)),
    }
}

#[cfg(not(feature = "hub"))]
fn is_engine(_: &Checkpoint, _: &Path, _: &Path) -> Result<bool, Failure> {
    Ok(false)
}

fn write_state_dict(checkpoint: &Checkpoint, path: &Path, folder: &Path) -> Result<Kind, Failure> {
    let Some(model) = checkpoint.state.get("model").filter(|model| model.as_dict().is_some()) else {
        let names: Vec<&str> = checkpoint.state.names().collect();
        return Err(Failure::new(
            1,
            format!(
                "{}: none of the modules that this run tracks is named `model` (it has {}), so it is not clear which weights to publish; write them with run.save_weights, and upload that file with `hf upload`",
                path.display(),
                names.join(", ")
            ),
        ));
    };
    let target = folder.join(STATE_DICT);
    let failed = |error: std::io::Error| Failure::at(&target, &error);
    let mut file = BufWriter::new(File::create(&target).map_err(failed)?);
    Archive::new(model).write_to(&mut file).and_then(|()| file.flush()).map_err(failed)?;
    let is_whole = checkpoint.identity.input(FROZEN).is_none();
    Ok(if is_whole { Kind::StateDict } else { Kind::TrainedWeights })
}

fn text(checkpoint: &Checkpoint, kind: Kind, repository: &str) -> String {
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let (head, load) = match kind {
        Kind::Transformers => (
            "library_name: transformers\npipeline_tag: text-generation",
            format!(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                 model = AutoModelForCausalLM.from_pretrained(\"{repository}\")\n\
                 tokenizer = AutoTokenizer.from_pretrained(\"{repository}\")"
            ),
        ),
        Kind::StateDict | Kind::TrainedWeights => {
            let strict = if kind == Kind::StateDict { "" } else { ", strict=False" };
            (
                "library_name: pytorch",
                format!(
                    "import torch\nfrom huggingface_hub import hf_hub_download\n\n\
                     path = hf_hub_download(\"{repository}\", \"{STATE_DICT}\")\n\
                     model = ...  # your own model\n\
                     model.load_state_dict(torch.load(path, map_location=\"cpu\", weights_only=True){strict})"
                ),
            )
        }
    };
    let best = match checkpoint.metrics.best {
        Some(best) => format!("Its {} was {:.4}, the best so far. ", checkpoint.objective.metric, best.value),
        None => String::new(),
    };
    let what = match kind {
        Kind::Transformers => "The weights are a GPT-2 with its tokenizer.",
        Kind::StateDict => "The weights are the state dict of a model of the author's own, without its code.",
        Kind::TrainedWeights => {
            "The weights are those that the run trained, of a model of the author's own, without its code. The frozen weights \
             are not in it: load them into the model first."
        }
    };
    format!(
        "---\ntags:\n- keepstep\n{head}\n---\n\n# {name}\n\nThe best model of a run that keepstep trained, at {}. {best}{what}\n\n\
         ```python\n{load}\n```\n\nRun `{}`, keepstep {}.\n",
        checkpoint.position,
        checkpoint.run_id(),
        env!("CARGO_PKG_VERSION"),
    )
}
