//! Any value that is written is read back equal.

use keepstep_pt::{Archive, Checksums, Dict, File, Storage, Tensor, Value};
use proptest::prelude::*;

fn write(value: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let archive = Archive::new(value);
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).expect("written");
    assert_eq!(bytes.len() as u64, archive.len_bytes());
    std::io::Write::write_all(&mut file, &bytes).expect("written");
    file
}

fn tensors() -> impl Strategy<Value = Tensor> {
    let shapes = proptest::collection::vec(0_usize..5, 0..4);
    (shapes, any::<u32>()).prop_map(|(shape, seed)| {
        let len: usize = shape.iter().product();
        let values: Vec<f32> =
            (0..len).map(|index| f32::from_bits((seed ^ index as u32) & 0x7f7f_ffff)).collect();
        Tensor::from_slice(&values, shape)
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-300_i64..70_000).prop_map(Value::Int),
        any::<f64>().prop_filter("NaN equals nothing", |value| !value.is_nan()).prop_map(Value::Float),
        "[a-z]{0,3}|\\PC{0,20}".prop_map(Value::Str),
        tensors().prop_map(Value::Tensor),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        let pairs = proptest::collection::vec(("[a-z]{0,4}", inner.clone()), 0..8);
        let dict = |pairs: Vec<(String, Value)>| {
            let mut dict = Dict::new();
            pairs.into_iter().for_each(|(key, value)| dict.insert(key, value));
            dict
        };
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            proptest::collection::vec(inner, 0..6).prop_map(Value::Tuple),
            pairs.clone().prop_map(move |pairs| Value::Dict(dict(pairs))),
            pairs.prop_map(move |pairs| Value::OrderedDict(dict(pairs))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_value(value in values()) {
        let file = write(&value);
        let file = File::open(file.path()).expect("it opens");
        prop_assert_eq!(file.value(), &value);
        prop_assert_eq!(file.verify().expect("it holds"), Checksums::Verified);
    }
}

#[test]
fn shared_storages_stay_shared_and_views_stay_views() {
    let storage = Storage::from_vec((0..10_i64).collect());
    let view = Tensor::strided(storage.clone(), 1, vec![2, 3], vec![4, 1]).expect("a view");
    let value = Value::List(vec![Tensor::new(storage, vec![10]).into(), view.clone().into()]);
    let file = write(&value);
    let len = file.path().metadata().expect("its size").len();
    let file = File::open(file.path()).expect("it opens");
    let items = file.value().as_list().expect("a list");
    let read = items[1].as_tensor().expect("a tensor");
    assert_eq!((read.shape(), read.strides(), read.offset()), (view.shape(), view.strides(), 1));
    assert_eq!(read.to_vec::<i64>().expect("its values"), [1, 2, 3, 5, 6, 7]);
    // Written again from the file, it is the same file.
    let again = write(file.value());
    assert_eq!(std::fs::read(again.path()).expect("bytes").len() as u64, len);
}

#[test]
fn many_entries() {
    let mut dict = Dict::new();
    for number in 0..20_000_i64 {
        dict.insert(format!("key {number}"), number);
    }
    let value = Value::Dict(dict);
    let file = write(&value);
    assert_eq!(File::open(file.path()).expect("it opens").value(), &value);
}

#[test]
fn what_is_read_from_a_file_can_be_written_to_another() {
    let first = write(&Value::Tensor(Tensor::from_slice(&[1.5_f32; 100_000], vec![100_000])));
    let second = write(File::open(first.path()).expect("it opens").value());
    assert_eq!(std::fs::read(first.path()).expect("bytes"), std::fs::read(second.path()).expect("bytes"));
}
