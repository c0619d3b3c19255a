//! What other programs wrote, against the real PyTorch and transformers: computed, known to change nothing, or refused by
//! name. `cargo xtask test` makes the environment and names it in KEEPSTEP_TORCH_PYTHON.

use crate::support;

use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};
use support::{Lab, expect, said};

/// Runs a script in the lab's folder; gives what it printed in its last line, if that is JSON.
fn python(lab: &Lab, script: &str) -> Value {
    let python =
        std::env::var_os("KEEPSTEP_TORCH_PYTHON").expect("KEEPSTEP_TORCH_PYTHON names a Python with torch");
    let script = format!("{}\n{script}", include_str!("support/foreign.py"));
    let output = Command::new(python).args(["-c", &script]).current_dir(lab.path("")).output();
    let output = output.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

fn import(lab: &Lab, file: &str, extra: &[&str], status: i32) -> Output {
    let mut command = support::program();
    command.arg("import").arg(lab.path(&format!("{file}.pt"))).arg("--config").arg(lab.path("config.toml"));
    command.arg("--out").arg(lab.path(file)).args(extra);
    expect(&mut command, status)
}

/// Every optimizer of `torch.optim`, with weight decay and without: only AdamW's rule is taken for AdamW.
#[test]
#[ignore = "needs PyTorch"]
fn only_adamw_is_taken_for_adamw() {
    let lab = Lab::new();
    let made = python(
        &lab,
        "
made = {}
for name in dir(torch.optim):
    kind = getattr(torch.optim, name)
    if not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer) or kind is torch.optim.Optimizer:
        continue
    takes = inspect.signature(kind).parameters
    for decay in (0.0, 0.1) if 'weight_decay' in takes else (None,):
        for decoupled in (False, True) if 'decoupled_weight_decay' in takes else (None,):
            options = {'lr': 1e-2}
            if decay is not None:
                options['weight_decay'] = decay
            if decoupled is not None:
                options['decoupled_weight_decay'] = decoupled
            file = f'{name}_{decay}_{decoupled}'
            try:
                save(file, kind, groups=lambda p: list(p.values()), **options)
            except Exception as error:
                made[file] = str(error)
                continue
            made[file] = None
print(json.dumps(made))
",
    );
    let (mut taken, mut tried) = (Vec::new(), 0);
    for (file, failure) in made.as_object().expect("files") {
        // Some take no tensors of one dimension, or sparse gradients alone.
        if !failure.is_null() {
            continue;
        }
        tried += 1;
        let mut command = support::program();
        command
            .arg("import")
            .arg(lab.path(&format!("{file}.pt")))
            .arg("--config")
            .arg(lab.path("config.toml"));
        let output = command.arg("--out").arg(lab.path(file)).output().expect("the program starts");
        match output.status.code() {
            Some(0) => taken.push(file.as_str()),
            Some(2) => {
                let said = said(&output);
                assert!(said.contains("AdamW"), "{file}: {said}");
                assert!(!lab.path(file).exists(), "{file}");
            }
            other => panic!("{file}: {other:?} {}", said(&output)),
        }
    }
    assert!(tried >= 20, "{made}");
    // Without weight decay, or with it decoupled, Adam's rule is AdamW's.
    taken.sort_unstable();
    assert_eq!(
        taken,
        ["AdamW_0.0_None", "AdamW_0.1_None", "Adam_0.0_False", "Adam_0.0_True", "Adam_0.1_True"]
    );
    for (name, file) in
        [("NAdam", "NAdam_0.1_True"), ("Adamax", "Adamax_0.0_None"), ("RMSprop", "RMSprop_0.0_None")]
    {
        assert!(said(&import(&lab, file, &[], 2)).contains(name), "{file}");
    }
}

/// Numbers come as floats, ints, and tensors of any type and shape with one element.
#[test]
#[ignore = "needs PyTorch"]
fn a_best_loss_of_any_form_stays_the_best() {
    let lab = Lab::new();
    python(
        &lab,
        "
for name, best in {
    'float': 3.5, 'tensor': torch.tensor(3.5), 'one': torch.tensor([3.5]), 'double': torch.tensor(3.5).double(),
    'half': torch.tensor(3.5).half(), 'bfloat16': torch.tensor(3.5).bfloat16(),
}.items():
    save(name, extra={'best_val_loss': best, 'val_loss': best, 'epoch': torch.tensor(1), 'step': 3.0})
for name, best in {'int': 3, 'int64': torch.tensor(3)}.items():
    save(name, extra={'best_val_loss': best, 'global_step': torch.tensor([1])})
save('none', extra={'best_val_loss': None, 'val_loss': float('inf')})
save('text', extra={'best_val_loss': '3.5'})
save('two', extra={'best_val_loss': torch.tensor([3.5, 3.6])})
save('flag', extra={'best_val_loss': True})
",
    );
    for (name, best) in [
        ("float", Some(3.5)),
        ("tensor", Some(3.5)),
        ("one", Some(3.5)),
        ("double", Some(3.5)),
        ("half", Some(3.5)),
        ("bfloat16", Some(3.5)),
        ("int", Some(3.0)),
        ("int64", Some(3.0)),
        ("none", None),
    ] {
        import(&lab, name, &[], 0);
        let found = keepstep::store::load(&support::newest(&lab.path(name))).expect("a checkpoint");
        assert_eq!(found.metrics.best.map(|best| best.value), best, "{name}");
    }
    // Losses of this model are above 5: none is a better one.
    expect(&mut lab.train("tensor"), 0);
    let newest = keepstep::store::load(&support::newest(&lab.path("tensor"))).expect("a checkpoint");
    assert_eq!(newest.metrics.best.map(|best| best.position.global_step), Some(1));
    for name in ["text", "two", "flag"] {
        assert!(said(&import(&lab, name, &[], 2)).contains("best_val_loss"), "{name}");
    }
}

/// Keys of transformers' GPT2Config: none is unknown, and those that change the model are refused by name.
#[test]
#[ignore = "needs PyTorch"]
fn every_key_of_gpt2config_is_known() {
    let lab = Lab::new();
    let found = python(
        &lab,
        "
model = transformers_model(vocab=256)
model.save_pretrained('hub')
full = model.config.to_dict()
full.update({key: value for key, value in transformers.PreTrainedConfig().to_dict().items() if key not in full})
full['custom_key'] = 3
json.dump(full, open('hub/config.json', 'w'))
from tokenizers import Tokenizer
print(json.dumps(sorted(full)))
",
    );
    assert!(found.as_array().expect("keys").len() > 30, "{found}");
    let init_from = format!("init_from={}", lab.path("hub").display());
    let train = |status: i32, set: &[&str]| {
        let mut command = lab.train("run");
        command.args(["--dry-run", "--set", &init_from]);
        set.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        let output = expect(&mut command, status);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output))
    };
    let told = train(0, &[]);
    assert!(told.contains("does not compute: custom_key\n"), "{told}");
    let config = fs::read_to_string(lab.path("hub/config.json")).expect("a config");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    for (key, value) in [
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("scale_attn_weights", json!(false)),
        ("add_cross_attention", json!(true)),
        ("tie_word_embeddings", json!(false)),
        ("activation_function", json!("gelu")),
        ("n_inner", json!(64)),
        ("model_type", json!("llama")),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        fs::write(lab.path("hub/config.json"), changed.to_string()).expect("a config");
        let told = train(2, &[]);
        assert!(told.contains(key), "{key}: {told}");
    }
    fs::write(lab.path("hub/config.json"), config.to_string()).expect("a config");
    // No shape tells the number of heads.
    let told = train(2, &["model.n_head=4"]);
    assert!(told.contains("n_head = 2") && told.contains("model.n_head is 4"), "{told}");
}

/// Padding rows of an embedding: kept, trained as PyTorch trains them, exported, and never generated.
#[test]
#[ignore = "needs PyTorch"]
fn padded_vocabularies_go_in_and_out() {
    let lab = Lab::new();
    python(
        &lab,
        "
save('padded', vocab=320)
model = transformers_model(vocab=320)
with torch.no_grad():
    model.transformer.wte.weight[256:] *= 100
model.save_pretrained('hub')
",
    );
    let refused = said(&import(&lab, "padded", &[], 2));
    assert!(refused.contains("model.vocab_size = 320"), "{refused}");
    let rows = ["--set", "model.vocab_size=320"];
    import(&lab, "padded", &rows, 0);
    expect(lab.train("padded").args(rows), 0);
    expect(lab.train("small").args(["--set", "model.vocab_size=200"]), 2);

    let init_from = format!("init_from={}", lab.path("hub").display());
    let small = ["--set", &init_from, "--set", "optimizer.learning_rate=1e-30", "--set", "model.dropout=0.0"];
    expect(lab.train("fine").args(rows).args(small), 0);
    let val_loss =
        keepstep::store::load(&lab.path("fine/best_model.pt")).expect("a checkpoint").metrics.val_loss;
    let theirs = python(
        &lab,
        "
model = GPT2LMHeadModel.from_pretrained('hub').eval()
text = list(open('corpus.txt', 'rb').read())
windows = [torch.tensor([text[16 * w:16 * w + 17]]) for w in range(21, 26)]
with torch.no_grad():
    losses = [torch.nn.functional.cross_entropy(model(input_ids=w[:, :-1]).logits[0], w[0, 1:]).item() for w in windows]
print(sum(losses) / len(losses))
",
    );
    let (ours, theirs) = (val_loss.expect("a loss"), theirs.as_f64().expect("a loss"));
    assert!((ours - theirs).abs() < 1e-5 * theirs, "{ours} and {theirs}");
    // The padding rows are a hundred times larger: they would be chosen at once.
    let mut generate = support::program();
    generate.arg("generate").arg(lab.path("fine")).args(["--prompt", "the run", "--max-new-tokens", "200"]);
    expect(generate.args(["--temperature", "3", "--top-k", "0"]), 0);
    let mut export = support::program();
    export.arg("export").arg(lab.path("fine")).args(["--format", "hf", "--out"]).arg(lab.path("out"));
    expect(&mut export, 0);
    let found = python(
        &lab,
        "
one, other = GPT2LMHeadModel.from_pretrained('hub'), GPT2LMHeadModel.from_pretrained('out')
print(json.dumps([other.config.vocab_size, all(torch.allclose(a, b) for a, b in zip(one.parameters(), other.parameters()))]))
",
    );
    assert_eq!(found, json!([320, true]));
}

/// Shards of both kinds, and GPT-2's older files of a tokenizer.
#[test]
#[ignore = "needs PyTorch"]
fn shards_and_older_files_are_read() {
    let lab = Lab::new();
    fs::write(lab.path("corpus.txt"), support::text(3_000)).expect("the corpus");
    expect(lab.train("bpe").args(["--set", "data.tokenizer={ bpe = 290 }", "--stop-after", "1"]), 75);
    let found = python(
        &lab,
        "
model = transformers_model(vocab=290)
model.save_pretrained('whole')
model.save_pretrained('shards', max_shard_size='20KB')
os.makedirs('bins')
state, names = model.state_dict(), {}
for index, name in enumerate(state):
    names[name] = f'pytorch_model-{index % 2 + 1:05}-of-00002.bin'
for file in set(names.values()):
    torch.save({n: state[n].clone() for n in state if names[n] == file}, f'bins/{file}')
json.dump({'metadata': {}, 'weight_map': names}, open('bins/pytorch_model.bin.index.json', 'w'))
shutil.copy('whole/config.json', 'bins/config.json')
shutil.copytree('whole', 'legacy')
os.remove('legacy/model.safetensors')
torch.save(state, 'legacy/pytorch_model.bin', _use_new_zipfile_serialization=False)
os.makedirs('old shards')
for file in set(names.values()):
    part = {n: state[n].clone() for n in state if names[n] == file}
    torch.save(part, f'old shards/{file}', _use_new_zipfile_serialization=False)
for file in ('config.json', 'pytorch_model.bin.index.json'):
    shutil.copy(f'bins/{file}', f'old shards/{file}')
tokenizer = json.load(open('bpe/tokenizer.json'))
vocab = dict(tokenizer['model']['vocab'])
vocab.update({token['content']: token['id'] for token in tokenizer['added_tokens']})
for folder in ('whole', 'shards', 'bins', 'legacy', 'old shards'):
    json.dump(vocab, open(f'{folder}/vocab.json', 'w'))
    lines = [m if isinstance(m, str) else ' '.join(m) for m in tokenizer['model']['merges']]
    open(f'{folder}/merges.txt', 'w').write('#version: 0.2\\n' + '\\n'.join(lines) + '\\n')
from transformers import GPT2TokenizerFast
theirs = GPT2TokenizerFast(vocab='whole/vocab.json', merges='whole/merges.txt') if 'vocab' in inspect.signature(GPT2TokenizerFast.__init__).parameters else GPT2TokenizerFast('whole/vocab.json', 'whole/merges.txt')
print(json.dumps([len(glob.glob('shards/*.safetensors')), len(theirs(open('corpus.txt').read())['input_ids'])]))
",
    );
    assert!(found[0].as_u64().expect("shards") > 1, "{found}");
    let config = format!(
        "output_dir = \"x\"\nbatch_size = 2\n[data]\npaths = [\"{}\"]\nvalidation_fraction = 0.2\n",
        lab.path("corpus.txt").display()
    );
    fs::write(lab.path("config.toml"), config).expect("a config");
    let train = |from: &str, status: i32| {
        let init_from = format!("init_from={}", lab.path(from).display());
        expect(
            lab.train(&format!("run {from}")).args([
                "--set",
                &init_from,
                "--set",
                "total_steps=1",
                "--set",
                "eval_steps=1",
            ]),
            status,
        )
    };
    let loss = |from: &str| {
        keepstep::store::load(&lab.path(&format!("run {from}/best_model.pt")))
            .expect("a checkpoint")
            .metrics
            .val_loss
    };
    let said = said(&train("whole", 0));
    // The end-of-text token follows the text.
    let tokens = found[1].as_u64().expect("tokens") + 1;
    assert!(said.contains(&format!("{tokens} tokens")), "{tokens}: {said}");
    // The last two are of the format before PyTorch 1.6.
    for from in ["shards", "bins", "legacy", "old shards"] {
        train(from, 0);
        assert_eq!(loss(from), loss("whole"), "{from}");
    }
    // A legacy file that is cut short is refused before anything is written.
    let weights = fs::read(lab.path("legacy/pytorch_model.bin")).expect("weights");
    fs::write(lab.path("legacy/pytorch_model.bin"), &weights[..weights.len() - 1]).expect("written");
    fs::remove_dir_all(lab.path("run legacy")).expect("the run");
    let refused = support::said(&train("legacy", 2));
    assert!(refused.contains("pytorch_model.bin") && refused.contains("damaged"), "{refused}");
    let shard = fs::read_dir(lab.path("shards")).expect("a folder").filter_map(Result::ok);
    let mut shards = shard.filter(|entry| entry.file_name().to_string_lossy().ends_with(".safetensors"));
    let shard = shards.next().expect("a shard");
    fs::remove_file(shard.path()).expect("to remove it");
    fs::remove_dir_all(lab.path("run shards")).expect("the run");
    let refused = support::said(&train("shards", 2));
    assert!(refused.contains(&*shard.file_name().to_string_lossy()), "{refused}");
}

/// nanoGPT's own loop and layout.
#[test]
#[ignore = "needs PyTorch"]
fn nanogpt_s_checkpoint_becomes_a_run() {
    let lab = Lab::new();
    python(
        &lab,
        "
def nanogpt(name, **changed):
    p = parameters(256)
    turned = {n: torch.nn.Parameter(q.t().contiguous()) if n.endswith(LINEAR) else q for n, q in p.items()}
    optimizer = torch.optim.AdamW(by_dim(turned), lr=4e-3, betas=(0.9, 0.95), fused=False)
    train(optimizer, turned, 6)
    weights = {'_orig_mod.' + n: q.detach() for n, q in turned.items()}
    weights['_orig_mod.lm_head.weight'] = weights['_orig_mod.transformer.wte.weight']
    args = {'n_layer': 1, 'n_head': 2, 'n_embd': 32, 'block_size': 16, 'bias': True, 'vocab_size': None, 'dropout': 0.2}
    args.update(changed)
    torch.save({'model': weights, 'optimizer': optimizer.state_dict(), 'model_args': args, 'iter_num': 6,
                'best_val_loss': torch.tensor(3.25), 'config': {'learning_rate': 6e-3}}, f'{name}.pt')
nanogpt('nano')
nanogpt('heads', n_head=4)
nanogpt('biases', bias=False)
",
    );
    let one = ["--set", "model.n_layer=1"];
    let told = said(&import(&lab, "nano", &one, 0));
    for word in ["iter_num = 6", "epoch 2, step 6", "GELU", "dropout", "learning rate"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let path = lab.path("nano/checkpoint_epoch2_step6_global6.pt");
    let made = keepstep::store::load(&path).expect("a checkpoint");
    assert_eq!((made.num_updates, made.metrics.best.map(|best| best.value)), (6, Some(3.25)));
    expect(lab.train("nano").args(one), 0);
    assert!(said(&import(&lab, "heads", &one, 2)).contains("n_head"));
    assert!(said(&import(&lab, "biases", &one, 2)).contains("bias"));
}

/// The most usual groups, and names since PyTorch 2.6.
#[test]
#[ignore = "needs PyTorch"]
fn usual_groups_and_named_ones_give_the_same_run() {
    let lab = Lab::new();
    python(
        &lab,
        "
save('sizes', groups=by_name)
save('names', groups=by_name_with_names)
",
    );
    let told = said(&import(&lab, "sizes", &[], 0));
    assert!(told.contains("Taken from the sizes") && told.contains("group 1"), "{told}");
    import(&lab, "names", &[], 0);
    assert_eq!(lab.checkpoints("sizes"), lab.checkpoints("names"));
    // The config's learning rate applies, whatever the file's was.
    let rate = |run: &str, set: &[&str]| {
        expect(lab.train(run).args(set).args(["--stop-after", "1"]), 75);
        let journal = fs::read_to_string(lab.path(run).join("journal.jsonl")).expect("a journal");
        let update = journal.lines().rfind(|line| line.contains("\"update\"")).expect("an update");
        serde_json::from_str::<Value>(update).expect("JSON")["learning_rate"].as_f64().expect("a rate")
    };
    let constant = ["--set", "schedule.kind=constant", "--set", "schedule.warmup_steps=0"];
    for (name, learning_rate) in [("low", 1e-3), ("high", 5e-3)] {
        fs::copy(lab.path("names.pt"), lab.path(&format!("{name}.pt"))).expect("a file");
        let set = [
            constant[0],
            constant[1],
            constant[2],
            constant[3],
            "--set",
            &format!("optimizer.learning_rate={learning_rate}"),
        ];
        import(&lab, name, &set, 0);
        assert_eq!(rate(name, &set), learning_rate);
    }
}
