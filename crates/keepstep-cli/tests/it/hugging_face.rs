//! `keepstep push --best hf://` through the real huggingface_hub, against a server of ours. Xet is switched off: its
//! protocol is not public, and the server speaks Git LFS.

use crate::kaggle::json_in;
use crate::support;

use std::process::Command;
use support::local_server::{LocalServer, uploaders_python};
use support::{Lab, damage, expect, program, said};

const URL: &str = "hf://ann/gpt-best";

fn push(lab: &Lab, server: &LocalServer, words: &[&str]) -> Command {
    let mut command = program();
    command.arg("push").arg(lab.path("run")).args(words).arg("--python").arg(uploaders_python());
    command
        .env("HF_ENDPOINT", server.url())
        .env("HF_TOKEN", "hf_TokenOfAnn123456")
        .env("HF_HUB_DISABLE_XET", "1");
    command.env("HOME", &server.home).env_remove("HF_HOME");
    command
}

#[test]
#[ignore = "needs huggingface_hub: cargo xtask test"]
fn the_best_model_becomes_a_repository() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-at", "6"]), 75);
    let server = LocalServer::start(&lab, "hugging_face", &[]);
    let run = |words: &[&str], status| {
        let output = expect(&mut push(&lab, &server, words), status);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
        assert!(!text.contains("TokenOfAnn") && !text.contains("SIGNED-SECRET"), "{text}");
        text
    };
    let text = run(&[URL], 2);
    assert!(text.contains("add --best") && text.contains("128 commits an hour"), "{text}");
    let answer = json_in(&run(&[URL, "--best", "--json"], 0));
    assert_eq!((&answer["checked"], &answer["kind"]), (&true.into(), &"a model for transformers".into()));
    // Everything in one commit, and the weights of the export.
    let commits = String::from_utf8(server.get("/commits")).expect("text");
    assert!(commits.starts_with("[\"keepstep: a model for transformers at epoch"), "{commits}");
    let mut export = program();
    export.arg("export").arg(lab.path("run/best_model.pt")).args(["--format", "hf", "--out"]);
    expect(export.arg(lab.path("exported")), 0);
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        let exported = std::fs::read(lab.path("exported").join(name)).expect("a file");
        assert!(server.get(&format!("/files/ann/gpt-best/{name}")) == exported, "{name}");
    }
    let card = String::from_utf8(server.get("/files/ann/gpt-best/README.md")).expect("text");
    assert!(card.contains("library_name: transformers") && card.contains("Its val_loss was"), "{card}");

    // A second push is a second commit. What fails is a sentence.
    server.faults(&["put:flip"]);
    let text = run(&[URL, "--best"], 1);
    assert!(text.contains("the upload is incomplete: model.safetensors"), "{text}");
    run(&[URL, "--best"], 0);
    server.faults(&["commit:429"]);
    let text = run(&[URL, "--best"], 1);
    assert!(text.contains("429"), "{text}");
    let text = run(&["hf://bob/gpt", "--best"], 1);
    assert!(text.contains("403"), "{text}");
    let refused = |command: &mut Command, part: &str| {
        let text = said(&expect(command, 1));
        assert!(text.contains(part) && !text.contains("Traceback"), "{part}: {text}");
    };
    refused(push(&lab, &server, &[URL, "--best"]).env("HF_TOKEN", "hf_wrong123456"), "401");
    refused(push(&lab, &server, &[URL, "--best"]).env_remove("HF_TOKEN"), "found no credentials");
    damage(&lab.path("run/best_model.pt"));
    run(&[URL, "--best"], 1);
}
