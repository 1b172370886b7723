use super::*;

fn changes(files: &PolicyFiles) -> Vec<(String, &str)> {
    let kind = |file: &PolicyFile| match &file.content {
        Ok(Some(_)) => "content",
        Ok(None) => "gone",
        Err(_) => "unreadable",
    };
    let name = |file: &PolicyFile| file.path.rsplit('/').next().unwrap().to_owned();
    files.changes.iter().map(|file| (name(file), kind(file))).collect()
}

#[test]
fn each_look_tells_what_changed_since_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut policies = PolicyDir::new("static-cnp-path", dir.path());
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("a.yaml", "a: 1\n---\nb: 2\n");
    write("b.json", "[1]");
    write(".hidden.yaml", "x: 1");
    write("notes.txt", "x");
    let first = policies.look().unwrap();
    assert_eq!(changes(&first), [("a.yaml".into(), "content"), ("b.json".into(), "content")]);
    assert_eq!(first.changes[0].content, Ok(Some("a: 1\n---\nb: 2\n".into())));
    assert_eq!(changes(&policies.look().unwrap()), []);
    write("b.json", "[12]");
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(changes(&policies.look().unwrap()), [("a.yaml".into(), "gone"), ("b.json".into(), "content")]);
}

#[test]
fn unreadable_files_are_changes_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut policies = PolicyDir::new("static-cnp-path", dir.path());
    fs::write(dir.path().join("latin.yaml"), b"a: \xff").unwrap();
    let found = policies.look().unwrap();
    assert_eq!(changes(&found), [("latin.yaml".into(), "unreadable")]);
    assert!(found.changes[0].content.as_ref().unwrap_err().message.contains("UTF-8"));
    let missing = PolicyDir::new("static-cnp-path", Path::new("/nonexistent/policies")).look().unwrap_err().to_string();
    assert!(missing.contains("--static-cnp-path") && missing.contains("/nonexistent/policies"), "{missing}");
}

#[test]
fn a_watch_wakes_for_a_rename_into_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut watch, first) = Watch::begin("static-cnp-path", dir.path()).unwrap();
        assert_eq!(changes(&first), []);
        let temporary = dir.path().join("p.tmp");
        fs::write(&temporary, "a: 1").unwrap();
        fs::rename(&temporary, dir.path().join("p.yaml")).unwrap();
        assert_eq!(changes(&watch.changed().await), [("p.yaml".into(), "content")]);
    });
}
