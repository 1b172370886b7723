use super::*;

#[test]
fn both_forms_are_read_and_nonsense_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.delete", r#"{"container-id":"c1"}"#),
        ("b.delete", "cni-attachment-id:c2:eth0"),
        ("c.delete", r#"{"container":"c3"}"#),
        ("d.delete", ""),
        ("e.delete", r#"{"container-id":""}"#),
        ("f.other", "7"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("g.delete")).unwrap();
    let queue = DeleteQueue::lock(dir.path()).unwrap();
    let found = queue.deletions().unwrap();
    let want = [
        (dir.path().join("a.delete"), Deletion::Container("c1".into())),
        (dir.path().join("b.delete"), Deletion::Endpoint(EndpointName::Attachment("c2:eth0".into()))),
    ];
    assert_eq!(found, want);
    assert!(!dir.path().join("c.delete").exists() && dir.path().join("f.other").exists());
    queue.done(&found[0].0);
    assert_eq!(queue.deletions().unwrap().len(), 1);
}

#[test]
fn while_the_agent_holds_the_lock_no_plugin_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DeleteQueue::lock(dir.path()).unwrap();
    let shared = || Flock::lock(File::open(dir.path().join("lockfile")).unwrap(), FlockArg::LockSharedNonblock);
    assert!(shared().is_err());
    drop(queue);
    assert!(shared().is_ok());
}

#[test]
fn any_content_is_a_deletion_or_none() {
    bolero::check!().with_type::<String>().for_each(|text| {
        if let Some(Deletion::Container(id)) = Deletion::parse(text) {
            assert!(!id.is_empty());
        }
    });
}
