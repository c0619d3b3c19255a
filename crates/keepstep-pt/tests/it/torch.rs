//! Against the real PyTorch. `cargo xtask test` makes the environment and names it in KEEPSTEP_TORCH_PYTHON.

use keepstep_pt::{Archive, Dict, Dtype, File, LegacyFile, Storage, Tensor, Value};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn python(script: &str, folder: &Path) {
    let python =
        std::env::var_os("KEEPSTEP_TORCH_PYTHON").expect("KEEPSTEP_TORCH_PYTHON names a Python with torch");
    let output =
        Command::new(python).args(["-c", script]).current_dir(folder).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn raw(dtype: Dtype, bytes: Vec<u8>, shape: Vec<usize>) -> Value {
    let range = 0..bytes.len();
    Tensor::new(Storage::shared(Arc::new(bytes), range, dtype), shape).into()
}

fn floats(values: &[f32], shape: Vec<usize>) -> Value {
    Tensor::from_slice(values, shape).into()
}

fn dict(pairs: Vec<(&str, Value)>) -> Dict {
    let mut dict = Dict::new();
    pairs.into_iter().for_each(|(key, value)| dict.insert(key, value));
    dict
}

/// Values, and the Python expressions that make them.
fn corpus() -> Vec<(Value, String)> {
    let ints = |range: std::ops::Range<i64>| Value::List(range.map(Value::Int).collect());
    let storage = Storage::from_vec((0..12).map(|value| value as f32).collect::<Vec<_>>());
    let base = Tensor::new(storage.clone(), vec![3, 4]);
    let view = |offset, shape, strides| {
        Value::from(Tensor::strided(storage.clone(), offset, shape, strides).expect("a view"))
    };
    let numbers = [0, 1, -1, 255, 256, 65_535, 65_536, -300, 1 << 31, -(1 << 31) - 1, i64::MAX, i64::MIN];
    let mut corpus = vec![
        (Value::None, "None".to_owned()),
        (Value::List(numbers.map(Value::Int).to_vec()), format!("{numbers:?}")),
        (
            Value::Tuple(vec![
                Value::Bool(true),
                Value::Bool(false),
                Value::Float(0.1),
                Value::Float(-0.0),
                "x".into(),
            ]),
            "(True, False, 0.1, -0.0, 'x')".to_owned(),
        ),
        (
            Value::List(vec![
                Value::Tuple(vec![]),
                Value::Tuple(vec![Value::Int(1)]),
                Value::Tuple(vec![Value::Int(1), Value::Int(2)]),
                Value::Tuple(vec![Value::Int(1), Value::Int(2), Value::Int(3)]),
                Value::List(vec![]),
                Value::Dict(Dict::new()),
                Value::OrderedDict(Dict::new()),
            ]),
            "[(), (1,), (1, 2), (1, 2, 3), [], {}, OrderedDict()]".to_owned(),
        ),
        (
            Value::Dict(dict(vec![
                ("epoch", Value::Int(3)),
                ("nested", dict(vec![("epoch", Value::Int(4)), ("name", "epoch".into())]).into()),
                ("é", "ü".into()),
            ])),
            "{'epoch': 3, 'nested': {'epoch': 4, 'name': 'epoch'}, 'é': 'ü'}".to_owned(),
        ),
        (
            Value::OrderedDict(dict(vec![
                ("a", base.clone().into()),
                ("b", view(0, vec![4, 3], vec![1, 4])),
            ])),
            "(lambda t: OrderedDict([('a', t), ('b', t.T)]))(torch.arange(12.).reshape(3, 4))".to_owned(),
        ),
        (
            Value::List(vec![
                view(1, vec![3, 2], vec![4, 2]),
                view(5, vec![2], vec![0]),
                view(11, vec![], vec![]),
            ]),
            "(lambda t: [t[:, 1::2], t[1, 1].expand(2), t[2, 3]])(torch.arange(12.).reshape(3, 4))"
                .to_owned(),
        ),
        (
            Value::List(vec![base.clone().into(), base.clone().into()]),
            "(lambda t: [t, t])(torch.arange(12.).reshape(3, 4))".to_owned(),
        ),
        (
            Value::List(vec![
                floats(&[1.5], vec![]),
                floats(&[], vec![0]),
                floats(&[], vec![2, 0, 3]),
                floats(&[0.0; 60], vec![3, 4, 5]),
            ]),
            "[torch.tensor(1.5), torch.zeros(0), torch.zeros(2, 0, 3), torch.zeros(3, 4, 5)]".to_owned(),
        ),
    ];
    for len in [1, 2, 999, 1000, 1001, 1500, 2000, 2001] {
        corpus.push((ints(0..len), format!("list(range({len}))")));
        let mut entries = Dict::new();
        (0..len).for_each(|key| entries.insert(key, -key));
        corpus.push((Value::Dict(entries.clone()), format!("{{i: -i for i in range({len})}}")));
        corpus.push((Value::OrderedDict(entries), format!("OrderedDict((i, -i) for i in range({len}))")));
    }
    for &dtype in Dtype::ALL {
        let bytes = vec![1; 6 * dtype.size()];
        let expression =
            format!("torch.full(({},), 1, dtype=torch.uint8).view(torch.{dtype}).reshape(2, 3)", bytes.len());
        corpus.push((raw(dtype, bytes, vec![2, 3]), expression));
    }
    let many = |index: usize| floats(&[index as f32; 3], vec![3]);
    let mut entries = Dict::new();
    (0..1500).for_each(|index| entries.insert(format!("layer.{index}"), many(index)));
    let expression = "OrderedDict((f'layer.{i}', torch.full((3,), float(i))) for i in range(1500))";
    corpus.push((Value::OrderedDict(entries), expression.to_owned()));
    corpus
}

#[test]
#[ignore = "needs PyTorch"]
fn the_bytes_are_those_of_torch_save() {
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = corpus();
    let expressions: Vec<&str> = corpus.iter().map(|(_, expression)| expression.as_str()).collect();
    python(
        &format!(
            "import torch, io\nfrom collections import OrderedDict\n\
             for i, v in enumerate([{}]):\n    b = io.BytesIO(); torch.save(v, b); open(f'{{i}}.pt', 'wb').write(b.getvalue())\n",
            expressions.join(",\n")
        ),
        folder.path(),
    );
    for (index, (value, expression)) in corpus.iter().enumerate() {
        let mut ours = Vec::new();
        Archive::new(value).write_to(&mut ours).expect("written");
        let path = folder.path().join(format!("{index}.pt"));
        let mut theirs = std::fs::read(&path).expect("their file");
        assert_eq!(ours.len(), theirs.len(), "{expression}");
        // The serialization id and its two checksums are the writer's own.
        for bytes in [&mut ours, &mut theirs] {
            let at = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").expect("a directory");
            bytes[at + 16..at + 20].fill(0);
            let header = u32::from_le_bytes(bytes[at + 42..at + 46].try_into().expect("four bytes")) as usize;
            let payload = (header + 30..)
                .find(|start| start % 64 == 0 && *start >= header + 30 + 34)
                .expect("a payload");
            bytes[payload..payload + 40 + 8].fill(0);
        }
        let differing = ours.iter().zip(&theirs).position(|(one, other)| one != other);
        assert_eq!(differing, None, "{expression}");
        let read = File::open(&path).unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(read.value(), value, "{expression}");
        read.verify().expect("their checksums hold");
    }
}

#[test]
#[ignore = "needs PyTorch"]
fn torch_and_zip_tools_open_what_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for (index, (value, expression)) in corpus().iter().enumerate() {
        let mut file = std::fs::File::create(folder.path().join(format!("{index}.pt"))).expect("a file");
        Archive::new(value).write_to(&mut file).expect("written");
        std::fs::write(folder.path().join(format!("{index}.py")), expression).expect("written");
    }
    python(
        "import torch, glob, zipfile\n\
         from collections import OrderedDict\n\
         def same(a, b):\n\
         \x20   assert type(a) is type(b), (type(a), type(b))\n\
         \x20   if isinstance(a, torch.Tensor):\n\
         \x20       assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()\n\
         \x20       assert a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8)) if a.numel() else True\n\
         \x20   elif isinstance(a, dict):\n\
         \x20       assert list(a) == list(b); [same(a[k], b[k]) for k in a]\n\
         \x20   elif isinstance(a, (list, tuple)):\n\
         \x20       assert len(a) == len(b); [same(x, y) for x, y in zip(a, b)]\n\
         \x20   else: assert a == b and repr(a) == repr(b)\n\
         files = glob.glob('*.pt')\n\
         assert len(files) > 40\n\
         for f in files:\n\
         \x20   expected = eval(open(f[:-3] + '.py').read())\n\
         \x20   for mmap in (False, True):\n\
         \x20       same(torch.load(f, weights_only=True, mmap=mmap), expected)\n\
         \x20   assert zipfile.ZipFile(f).testzip() is None\n",
        folder.path(),
    );
    let mut unzip = Command::new("unzip");
    unzip.args(["-tqq"]).arg(folder.path().join("0.pt"));
    assert!(unzip.status().expect("unzip starts").success());
}

#[test]
#[ignore = "needs PyTorch"]
fn what_torch_writes_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    python(
        "import torch\n\
         m = torch.nn.Linear(2, 3)\n\
         o = torch.optim.AdamW(m.parameters())\n\
         m(torch.ones(1, 2)).sum().backward(); o.step()\n\
         torch.save({'model': m.state_dict(), 'optimizer': o.state_dict(), 'parameter': m.weight, 'size': m.weight.shape,\n\
         \x20   'dtype': torch.float32, 'device': torch.device('cpu'), 'set': {1}, 'complex': 1+2j, 'bytes': b'a\\xff',\n\
         \x20   'bytearray': bytearray(b'xy')}, 'file.pt')\n\
         torch.save(torch.ones(2), 'legacy.pt', _use_new_zipfile_serialization=False)\n\
         torch.jit.script(m).save('script.pt')\n\
         torch.serialization.set_crc32_options(False)\n\
         torch.save(torch.ones(2), 'unchecked.pt')\n",
        folder.path(),
    );
    let file = File::open(folder.path().join("file.pt")).expect("it opens");
    file.verify().expect("it holds");
    let root = file.value().as_dict().expect("a dict");
    let weight = root.get("parameter").and_then(Value::as_tensor).expect("the parameter");
    assert_eq!(weight.shape(), [3, 2]);
    assert_eq!(root.get("bytes"), Some(&Value::Bytes(vec![b'a', 255])));
    assert_eq!(root.get("bytearray"), Some(&Value::Bytes(b"xy".to_vec())));
    assert_eq!(root.get("dtype"), Some(&Value::Global("torch.float32".to_owned())));
    for (name, word) in [("legacy.pt", "legacy"), ("script.pt", "TorchScript")] {
        let error = File::open(folder.path().join(name)).expect_err("another kind");
        assert!(error.to_string().contains(word), "{error}");
    }
    let unchecked = File::open(folder.path().join("unchecked.pt")).expect("it opens");
    assert_eq!(unchecked.verify().expect("nothing to check"), keepstep_pt::Checksums::NotChecksummed);
}

/// The same values, saved in both formats, have the same types, views and bytes.
#[test]
#[ignore = "needs PyTorch"]
fn legacy_files_are_read_like_archives() {
    let folder = tempfile::tempdir().expect("a folder");
    python(
        "import torch\n\
         m = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))\n\
         m[1].weight = torch.nn.Parameter(m[0].weight.T)\n\
         t = torch.randn(6, 5)\n\
         v = {'model': m.state_dict(), 'parameter': m[0].weight, 'whole': t, 'turned': t.T, 'part': t[1:, ::2], 'one': t[2, 3],\n\
         \x20   'wide': t[:, :1].expand(6, 4), 'empty': torch.zeros(0, 2), 'epoch': 3, 'names': ['a', ('b', None)],\n\
         \x20   **{str(d): torch.randn(3, 4).to(d) for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)},\n\
         \x20   **{str(d): torch.arange(7).to(d) for d in (torch.int64, torch.uint8, torch.bool, torch.uint16, torch.float8_e4m3fn)}}\n\
         torch.save(v, 'zip.pt')\n\
         torch.save(v, 'legacy.pt', _use_new_zipfile_serialization=False)\n\
         torch.save(t, 'tensor.pt', _use_new_zipfile_serialization=False)\n\
         torch.save([], 'nothing.pt', _use_new_zipfile_serialization=False)\n",
        folder.path(),
    );
    let open =
        |name: &str| LegacyFile::open(folder.path().join(name)).unwrap_or_else(|error| panic!("{error}"));
    let (zip, legacy) = (File::open(folder.path().join("zip.pt")).expect("it opens"), open("legacy.pt"));
    assert!(LegacyFile::is_legacy(legacy.path()).expect("readable"));
    assert!(!LegacyFile::is_legacy(zip.path()).expect("readable"));
    assert_eq!(zip.value(), legacy.value());
    let tensors = |root: &Value| {
        let root = root.as_dict().expect("a dict");
        let nested = root.get("model").and_then(Value::as_dict).expect("the state");
        let tensors = root.iter().chain(nested.iter()).filter_map(|(_, value)| value.as_tensor().cloned());
        tensors.collect::<Vec<Tensor>>()
    };
    let (ours, theirs) = (tensors(legacy.value()), tensors(zip.value()));
    assert_eq!(ours.len(), 7 + 9 + 4);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(
            (ours.dtype(), ours.shape(), ours.strides()),
            (theirs.dtype(), theirs.shape(), theirs.strides())
        );
        assert_eq!(ours.to_bytes().expect("its bytes"), theirs.to_bytes().expect("its bytes"));
    }
    assert_eq!(open("tensor.pt").value().as_tensor().map(Tensor::shape), Some(&[6, 5][..]));
    assert_eq!(open("nothing.pt").value(), &Value::List(vec![]));
}
