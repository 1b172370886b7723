use std::sync::mpsc;

use super::*;
use types::EndpointId;

fn endpoint(id: u16) -> StateFile {
    StateFile::Endpoint(EndpointId::new(id).unwrap())
}

#[test]
fn files_come_back_as_written_and_leftovers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    state.write(endpoint(7), b"seven").unwrap();
    state.write(endpoint(7), b"seven again").unwrap();
    state.write(StateFile::LocalIdentities, b"{}").unwrap();
    fs::write(dir.path().join("state/7/endpoint.new"), "half").unwrap();
    fs::write(dir.path().join("state/README"), "not ours").unwrap();
    let found = state.read().unwrap();
    assert_eq!(found, [(endpoint(7), Ok(b"seven again".to_vec())), (StateFile::LocalIdentities, Ok(b"{}".to_vec()))]);
    assert!(!dir.path().join("state/7/endpoint.new").exists());
    assert!(dir.path().join("state/README").exists());
    state.remove(endpoint(7)).unwrap();
    state.remove(endpoint(7)).unwrap();
    assert!(!dir.path().join("state/7").exists());
}

#[test]
fn one_unreadable_file_does_not_hide_the_others_and_quarantine_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    state.write(endpoint(1), b"good").unwrap();
    fs::create_dir_all(dir.path().join("2/endpoint.json")).unwrap();
    let found = state.read().unwrap();
    assert_eq!(found[0], (endpoint(1), Ok(b"good".to_vec())));
    let why = found[1].1.as_ref().unwrap_err();
    assert!(why.message.contains("2/endpoint.json") && why.message.contains("not a regular file"), "{why:?}");
    let kept = state.quarantine(endpoint(1)).unwrap();
    assert_eq!(fs::read(kept).unwrap(), b"good");
    assert_eq!(state.read().unwrap().len(), 1);
}

#[test]
fn the_writer_answers_each_task_in_order_and_finishes_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let (told, answers) = mpsc::channel();
    let writer = Writer::start(state.clone(), move |op, outcome| told.send((op, outcome)).unwrap()).unwrap();
    writer.submit(Task::Save(OpId(1), endpoint(1), b"x".to_vec())).unwrap();
    writer.submit(Task::Forget(OpId(2), endpoint(1))).unwrap();
    writer.submit(Task::Save(OpId(3), endpoint(1), b"y".to_vec())).unwrap();
    drop(writer);
    assert_eq!(answers.iter().collect::<Vec<_>>(), [1, 2, 3].map(|n| (OpId(n), Ok(()))));
    assert_eq!(state.read().unwrap(), [(endpoint(1), Ok(b"y".to_vec()))]);
}
