//! Reading checkpoints where they are, from a run that a session writes meanwhile.

use super::script::{Script, bucket, run_script};
use super::store::{Plan, Wire, World};
use crate::manifest::Manifest;
use crate::remote::ObjectRemote;
use keepstep::Checkpoint;
use keepstep_pt::{File, ReadError};
use std::sync::Arc;

/// A run to read, and the session that writes it.
struct Place {
    world: Arc<World>,
    remote: ObjectRemote,
}

impl Place {
    /// A run with the checkpoints of two saves. The best is the second.
    fn new(only: Option<&str>) -> (Place, Manifest) {
        let world = World::new(Plan::At(Vec::new()));
        let remote =
            ObjectRemote::with_bucket(bucket(Arc::new(Wire::new(&world, 2))), only.map(str::to_owned));
        let place = Place { world, remote: remote.expect("threads") };
        place.save(&[5, 10]);
        let (manifest, _) = place.remote.manifest().expect("a manifest");
        assert_eq!(manifest.newest(), Some(10));
        (place, manifest)
    }

    /// A session that saves and lets all but the last two go.
    fn save(&self, saves: &'static [u64]) {
        let script = Script { id: 1, saves, is_loadable: true, ..Script::default() };
        let world = Arc::clone(&self.world);
        let saving = async move { run_script(&world, &script).await };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // A runtime cannot wait inside another.
        std::thread::scope(|scope| scope.spawn(|| runtime.block_on(saving)).join().expect("a session"));
    }
}

fn step(file: &File) -> u64 {
    Checkpoint::from_value(file.value()).expect("a checkpoint").position.global_step
}

/// The elements of the model, which are its step.
fn model(file: &File) -> Result<Vec<f32>, ReadError> {
    let checkpoint = Checkpoint::from_value(file.value()).expect("a checkpoint");
    file.will_read(checkpoint.state.part("model"));
    let model = checkpoint.state.part("model").as_dict().and_then(|model| model.get("weight"));
    model.and_then(keepstep_pt::Value::as_tensor).expect("a tensor").to_vec()
}

#[test]
fn a_listing_is_that_of_one_time() {
    let (place, before) = Place::new(None);
    let steps = |manifest: &Manifest| -> Vec<u64> {
        let listed = place.remote.checkpoints(manifest.clone()).expect("a listing");
        listed.iter().map(|one| one.content.as_ref().expect("a checkpoint").position.global_step).collect()
    };
    assert_eq!(steps(&before), [5, 10, 10]);
    place.save(&[15]);
    assert_eq!(steps(&before), [10, 15, 15], "of the first manifest one is there yet");
    place.save(&[20, 25, 30]);
    assert_eq!(steps(&before), [25, 30, 30]);

    // One that is lost is damage: no session has let it go.
    let (manifest, _) = place.remote.manifest().expect("a manifest");
    let lost = &manifest.files["checkpoint_epoch1_step25_global25.pt"].key;
    place.remote.runtime.block_on(place.remote.bucket.delete(lost)).expect("it goes");
    let listed = place.remote.checkpoints(manifest).expect("a listing");
    let states: Vec<bool> = listed.iter().map(|one| one.content.is_ok()).collect();
    assert_eq!(states, [false, true, true]);
    let reason = listed[0].content.as_ref().expect_err("damage");
    assert!(reason.contains("there is no such file"), "{reason}");
}

#[test]
fn a_checkpoint_that_is_let_go_before_it_is_opened_has_a_successor() {
    let (place, before) = Place::new(None);
    place.save(&[15, 20]);
    let mut calls = 0;
    let read = |file: Result<File, ReadError>| {
        calls += 1;
        file.map(|file| step(&file))
    };
    let read = place.remote.with_file(before, read).expect("the manifest").expect("a checkpoint");
    assert_eq!((read, calls), (20, 2));
}

#[test]
fn a_checkpoint_that_is_let_go_before_its_model_is_read_has_a_successor() {
    let (place, before) = Place::new(None);
    let mut steps = Vec::new();
    let read = place.remote.with_file(before, |file| {
        let file = file.expect("it is there");
        steps.push(step(&file));
        if steps.len() == 1 {
            place.save(&[15, 20]);
        }
        model(&file)
    });
    assert_eq!(read.expect("the manifest").expect("its elements"), [20.0]);
    assert_eq!(steps, [10, 20]);
}

#[test]
fn one_checkpoint_that_is_gone_is_named() {
    const NAME: &str = "checkpoint_epoch1_step5_global5.pt";
    let (place, before) = Place::new(Some(NAME));
    let read = |manifest: &Manifest| {
        place.remote.with_file(manifest.clone(), |file| file.map(|file| step(&file)).map_err(drop))
    };
    assert_eq!(read(&before), Ok(Ok(5)));
    let verify = |manifest: &Manifest| {
        let mut reported = Vec::new();
        let result = place.remote.verify(manifest.clone(), |name, result| {
            reported.push((name.to_owned(), result.is_ok()));
        });
        result.map(|()| reported)
    };
    assert_eq!(verify(&before), Ok(vec![(NAME.to_owned(), true)]));
    place.save(&[15, 20]);
    for error in
        [read(&before).map(drop), verify(&before).map(drop)].map(|result| result.expect_err("it is gone"))
    {
        assert_eq!(error.to_string(), format!("memory://run: there is no {NAME}"));
    }
}
