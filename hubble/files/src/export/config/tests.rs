use super::*;
use std::io::Write as _;

fn published(name: &str) -> Option<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/hubble-exporter");
    let found = std::fs::read_to_string(dir.join(name)).ok();
    if found.is_none() {
        let _shown = writeln!(std::io::stderr(), "skipped: no published samples at {}", dir.display());
    }
    found
}

fn read(text: &str) -> Result<Vec<FlowLog>, ConfigError> {
    parse(text, &Rotation::default())
}

#[test]
fn published_samples_are_taken_and_refused() {
    let Some(valid) = published("valid-flowlogs-config.yaml") else { return };
    let all = read(&valid).unwrap();
    assert_eq!(all.iter().map(|log| log.name.as_str()).collect::<Vec<_>>(), ["test001", "test002", "test003"]);
    assert_eq!(all[0].end_ns, Some(1_696_921_199_000_000_000));
    assert_eq!((all[1].mask.len(), all[1].include.len(), all[1].exclude.len()), (5, 2, 0));
    assert_eq!(all[1].include[0].source_label, ["networking.example.com/flow-logs=enabled"]);
    assert_eq!((all[2].end_ns, all[2].exclude[0].destination_pod[0].as_str()), (None, "ingress/"));
    assert_eq!(read(&published("empty-flowlogs-config.yaml").unwrap()), Ok(Vec::new()));
    for (name, says) in [
        ("duplicate-names-flowlogs-config.yaml", "flowLogs[1].name: name \"test001\" is there twice"),
        ("duplicate-paths-flowlogs-config.yaml", "flowLogs[1].filePath: path"),
        ("invalid-flowlogs-config.yaml", "not YAML"),
    ] {
        let why = read(&published(name).unwrap()).unwrap_err().to_string();
        assert!(why.contains(says), "{name}: {why}");
    }
}

#[test]
fn newer_fields_set_the_rotation() {
    let text = "flowLogs: [{name: a, filePath: stdout, fileMaxSizeMb: 2, fileMaxBackups: 0, fileCompress: true}]";
    let rotation = Rotation { bytes_max: 2 << 20, backups_max: 0, compress: true };
    assert_eq!(read(text).unwrap()[0].rotation, rotation);
}

#[test]
fn mistakes_say_where() {
    for (text, says) in [
        ("flowLogs: 1", "flowLogs: a list"),
        ("flowlogs: []", "\"flowlogs\": there are flowLogs"),
        ("flowLogs: [{filePath: /a}]", "flowLogs[0].name: a text"),
        ("flowLogs: [{name: a}]", "flowLogs[0].filePath: a text"),
        ("flowLogs: [{name: a, filePath: a.log}]", "an absolute path"),
        ("flowLogs: [{name: a, filePath: /a, fieldmask: []}]", "\"fieldmask\""),
        (
            "flowLogs: [{name: a, filePath: /a, fieldMask: [source.pod]}]",
            "flowLogs[0].fieldMask: invalid field mask path",
        ),
        ("flowLogs: [{name: a, filePath: /a, fieldMask: verdict}]", "flowLogs[0].fieldMask: a list"),
        ("flowLogs: [{name: a, filePath: /a, includeFilters: [{x: 1}]}]", "flowLogs[0].includeFilters[0]"),
        ("flowLogs: [{name: a, filePath: /a, includeFilters: {}}]", "flowLogs[0].includeFilters: a list"),
        ("flowLogs: [{name: a, filePath: /a, excludeFilters: [{protocol: [x]}]}]", "flowLogs[0]: invalid protocol"),
        ("flowLogs: [{name: a, filePath: /a, end: tomorrow}]", "flowLogs[0].end: a time"),
        ("flowLogs: [{name: a, filePath: /a, fileMaxSizeMb: 0}]", "flowLogs[0].fileMaxSizeMb: a number"),
        ("flowLogs: [{name: a, filePath: /a, fileCompress: 1}]", "flowLogs[0].fileCompress: true or false"),
    ] {
        let why = read(text).unwrap_err().to_string();
        assert!(why.contains(says), "{text}: {why}");
    }
}

#[test]
fn filters_of_options_stand_behind_each_other() {
    for text in [
        r#"{"verdict":["DROPPED"]},{"source_pod":["a/","b,}"]}"#,
        "{\"verdict\":[\"DROPPED\"]}\n{\"source_pod\":[\"a/\",\"b,}\"]}",
    ] {
        let all = parse_filters(text).unwrap();
        assert_eq!((all.len(), all[1].source_pod.len()), (2, 2), "{text}");
    }
    assert_eq!(parse_filters(" , ").unwrap().len(), 0);
    for (text, says) in [
        (r#"{"verdict":["DROPPED"]},{"pod":[]}"#, "filter 2"),
        (r#"{"verdict":["#, "filter 1"),
        ("[]", "filter 1"),
        ("x", "filter 1"),
    ] {
        let why = parse_filters(text).unwrap_err().to_string();
        assert!(why.contains(says), "{text}: {why}");
    }
}
