//! `keepstep push --best` to a model repository on the Hugging Face hub, through the user's `huggingface_hub`.

mod model;

use crate::arguments::PushArguments;
use crate::bundle::SideFolder;
use crate::failure::Failure;
use crate::output;
use crate::python::{Python, Script};
use keepstep::name::BEST_MODEL;
use keepstep::store::load;
use serde_json::json;

const HUB: Script = Script {
    text: concat!(include_str!("../../../python/answer.py"), include_str!("hub.py")),
    package: "huggingface_hub",
    credentials: "make a token with the right to write at https://huggingface.co/settings/tokens and put it into the \
                  variable HF_TOKEN, or log in with `hf auth login`",
};

pub(super) fn push(arguments: &PushArguments) -> Result<(), Failure> {
    let url = &arguments.url;
    let repository = repository(url)?;
    if !arguments.best {
        return Err(Failure::new(
            2,
            format!(
                "{url}: a repository takes a model, not a run: add --best. It allows 128 commits an hour, which is too few for checkpoints; those go to a Bucket of Hugging Face, through its S3 endpoint (s3://)"
            ),
        ));
    }
    let path = arguments.run.join(BEST_MODEL);
    if !path.is_file() {
        let run = arguments.run.display();
        return Err(Failure::new(
            1,
            format!("{run}: it has no {BEST_MODEL}; it comes with the first evaluation"),
        ));
    }
    let best = load(&path).map_err(|error| Failure::about(1, &path.display().to_string(), &error))?;
    let side = SideFolder::new(&arguments.run, "push")?;
    let folder = side.make("model")?;
    let kind = model::write(&best, &path, repository, &folder)?;
    let message = format!("keepstep: {kind} at {} of run {}", best.position, best.run_id());
    let request = json!({ "repository": repository, "folder": folder, "message": message });
    let answer = Python::find(arguments.python.as_deref()).call(HUB, &request, url, arguments.json)?;
    if let Some(reason) = answer["unchecked"].as_str() {
        output::say(&format!("{url}: the upload could not be checked: {reason}"));
    }
    let wrong: Vec<&str> =
        answer["wrong"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    if !wrong.is_empty() {
        let message = format!("{url}: the upload is incomplete: {}; push again", wrong.join(", "));
        return Err(Failure::new(1, message));
    }
    if arguments.json {
        return output::print_json(&json!({
            "url": url, "run": best.run_id(), "global_step": best.position.global_step, "kind": kind.to_string(),
            "commit": answer["commit"], "commit_url": answer["url"], "checked": answer["wrong"].is_array(),
        }));
    }
    let place = answer["url"].as_str().unwrap_or_default();
    output::print(&format!("Pushed {kind} at {} to {url}: {place}\n", best.position))
}

/// OWNER/NAME of `hf://OWNER/NAME`.
fn repository(url: &str) -> Result<&str, Failure> {
    let wrong = || Failure::new(2, format!("{url}: expected hf://OWNER/NAME"));
    let rest = url.strip_prefix("hf://").ok_or_else(wrong)?;
    let parts: Vec<&str> = rest.split('/').collect();
    let is_word = |word: &&str| {
        !word.is_empty()
            && !word.starts_with(['-', '.'])
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if parts.len() == 2 && parts.iter().all(is_word) { Ok(rest) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::repository;

    #[test]
    fn a_repository_has_an_owner_and_a_name() {
        assert_eq!(repository("hf://ann/gpt-2.days").ok(), Some("ann/gpt-2.days"));
        for url in ["hf://ann", "hf://ann/gpt/main", "hf:///gpt", "hf://ann/..", "hf://datasets/ann/gpt"] {
            assert!(repository(url).is_err(), "{url}");
        }
    }
}
