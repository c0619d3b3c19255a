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

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder for transformers' `from_pretrained`.
    Transformers,
    /// The state dict of a PyTorch loop's model.
    StateDict,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Transformers => "a model for transformers",
            Kind::StateDict => "a state dict of PyTorch",
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
    let Some(model) = checkpoint.state.get("model") else {
        let names: Vec<&str> = checkpoint.state.names().collect();
        return Err(Failure::new(
            1,
            format!(
                "{}: no part of its state is named `model` ({}), so it is not clear which weights to publish; write them with run.save_weights",
                path.display(),
                names.join(", ")
            ),
        ));
    };
    let target = folder.join(STATE_DICT);
    let failed = |error: std::io::Error| Failure::at(&target, &error);
    let mut file = BufWriter::new(File::create(&target).map_err(failed)?);
    Archive::new(model).write_to(&mut file).and_then(|()| file.flush()).map_err(failed)?;
    Ok(Kind::StateDict)
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
        Kind::StateDict => (
            "library_name: pytorch",
            format!(
                "import torch\nfrom huggingface_hub import hf_hub_download\n\n\
                 path = hf_hub_download(\"{repository}\", \"{STATE_DICT}\")\n\
                 model.load_state_dict(torch.load(path, map_location=\"cpu\", weights_only=True))  # your own model"
            ),
        ),
    };
    let best = match checkpoint.metrics.best {
        Some(best) => format!("Its {} was {:.4}, the best so far. ", checkpoint.objective.metric, best.value),
        None => String::new(),
    };
    let what = match kind {
        Kind::Transformers => "The weights are a GPT-2 with its tokenizer.",
        Kind::StateDict => "The weights are the state dict of a model of the author's own, without its code.",
    };
    format!(
        "---\ntags:\n- keepstep\n{head}\n---\n\n# {name}\n\nThe best model of a run that keepstep trained, at {}. {best}{what}\n\n\
         ```python\n{load}\n```\n\nRun `{}`, keepstep {}.\n",
        checkpoint.position,
        checkpoint.run_id(),
        env!("CARGO_PKG_VERSION"),
    )
}
