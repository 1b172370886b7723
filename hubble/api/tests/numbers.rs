//! Every message and enum against the published tables of field numbers, read in place.

use hubble_api::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::io::Write as _;
use std::{collections::BTreeMap, path::Path};

/// Packages the tables describe and our servers serve.
const PACKAGES: [&str; 4] = ["flow", "observer", "peer", "relay"];

/// Lines of numbers and names (with the type, for fields) under the name of a message or enum.
type Tables = BTreeMap<String, Vec<String>>;

/// The tables of the reference: `### message` and `### enum`, each with rows of `| number | name | type |`.
fn published(text: &str) -> Tables {
    let mut tables = Tables::new();
    let mut open: Option<(String, bool)> = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            let name = title.split('`').nth(1).unwrap_or_default();
            let is_message = title.starts_with("message");
            let ours = PACKAGES.iter().any(|package| name.starts_with(&format!("{package}.")));
            open = (ours && (is_message || title.starts_with("enum"))).then(|| (name.to_owned(), is_message));
            if let Some((name, _)) = &open {
                tables.entry(name.clone()).or_default();
            }
            continue;
        }
        let (Some((name, is_message)), Some(row)) = (&open, line.strip_prefix("| ")) else { continue };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<i32>() else { continue };
        if cells[1] == "(reserved)" {
            continue;
        }
        let kind = if *is_message { format!(" {}", cells[2]) } else { String::new() };
        tables.get_mut(name).expect("opened").push(format!("{number} {}{kind}", cells[1]));
    }
    tables
}

/// The same of our descriptors.
fn ours() -> Tables {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("made by our build");
    let mut tables = Tables::new();
    for file in set.file.iter().filter(|file| PACKAGES.contains(&file.package())) {
        file.message_type.iter().for_each(|message| describe(file.package(), message, &mut tables));
        file.enum_type.iter().for_each(|values| names(file.package(), values, &mut tables));
    }
    tables
}

fn describe(scope: &str, message: &DescriptorProto, into: &mut Tables) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| describe(&name, nested, into));
    message.enum_type.iter().for_each(|nested| names(&name, nested, into));
    let package = scope.split('.').next().unwrap_or_default();
    let rows =
        message.field.iter().map(|field| format!("{} {} {}", field.number(), field.name(), kind(field, package)));
    into.insert(name, rows.collect());
}

fn names(scope: &str, values: &EnumDescriptorProto, into: &mut Tables) {
    let rows = values.value.iter().map(|value| format!("{} {}", value.number(), value.name()));
    into.insert(format!("{scope}.{}", values.name()), rows.collect());
}

/// The type as the tables write it: the package is left out of a name of the same package, and so is what it is nested in.
fn kind(field: &FieldDescriptorProto, package: &str) -> String {
    let list = if field.label() == Label::Repeated { "repeated " } else { "" };
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let full = field.type_name().trim_start_matches('.');
            match full.strip_prefix(&format!("{package}.")) {
                Some(local) => local.rsplit('.').next().unwrap_or(local).to_owned(),
                None => full.to_owned(),
            }
        }
        other => format!("{other:?}").to_lowercase(),
    };
    format!("{list}{name}")
}

#[test]
fn names_numbers_and_types_are_those_published() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/hubble-api.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        let _shown = writeln!(std::io::stderr(), "skipped: {} is absent", path.display());
        return;
    };
    let (want, got) = (published(&text), ours());
    // Kept of an older version, whose clients put the mask there.
    let kept = |name: &str, row: &str| {
        name == "observer.GetFlowsRequest.Experimental" && row == "1 field_mask google.protobuf.FieldMask"
    };
    let mut wrong = Vec::new();
    for (name, rows) in &want {
        let Some(mine) = got.get(name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        wrong.extend(rows.iter().filter(|row| !mine.contains(row)).map(|row| format!("{name}: want {row}")));
        let more = mine.iter().filter(|row| !rows.contains(row) && !kept(name, row));
        wrong.extend(more.map(|row| format!("{name}: nobody published {row}")));
    }
    wrong.extend(got.keys().filter(|name| !want.contains_key(*name)).map(|name| format!("nobody published {name}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let rows: usize = want.values().map(Vec::len).sum();
    assert!(want.len() > 60 && rows > 400, "{} tables, {rows} rows: too few to be all", want.len());
}
