use serde_json::{Value, json};

use super::{Measured, figure, json as as_json, text};

fn told(program: &'static str, told: Value) -> Measured {
    Measured { program, told }
}

fn some() -> Vec<Measured> {
    vec![
        told(
            "connects",
            json!({"row": "socket LB, 1000", "value": 0.98, "unit": "of direct", "low": 0.97, "high": 1.0}),
        ),
        told("packets", json!({"row": "XDP SNAT, new, LRU full", "value": 5009.2, "unit": "ns", "median": 5100.0})),
        told("packets", json!({"row": "a row without an aim", "value": 1.0, "unit": "ns"})),
    ]
}

#[test]
fn figures_have_what_can_be_read() {
    let all = [5_009.2, 282.4, 69.26, 1.5, 0.125].map(figure);
    assert_eq!(all, ["5,009", "282", "69.3", "1.50", "0.125"]);
}

#[test]
fn rows_stand_in_the_tables_order_with_aim_and_verdict() {
    let table = text(&some());
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    let cells = |at: usize| lines[at].iter().filter(|cell| !cell.is_empty()).copied().collect::<Vec<_>>();
    assert_eq!(
        cells(1),
        ["XDP NodePort SNAT, new flow, LRU full", "5,009 ns", "<= 1,200", "NO", "Cilium 3,230"],
        "{table}"
    );
    assert_eq!(
        cells(2),
        ["connects/s by a service, 1,000 services", "0.980 (0.970-1.00) of direct", ">= 0.970", "yes"],
        "{table}"
    );
    assert_eq!(lines.len(), 3, "what has no place in the table is in JSON alone: {table}");
}

#[test]
fn json_has_everything_that_was_told() {
    let all: Value = serde_json::from_str(&as_json(&some())).expect("JSON");
    let rows = all["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 3);
    assert_eq!((&rows[0]["met"], &rows[0]["low"]), (&json!(true), &json!(0.97)));
    assert_eq!((&rows[1]["met"], &rows[1]["aim"]), (&json!(false), &json!("<= 1,200")));
    assert_eq!(rows[2].get("aim"), None);
}
