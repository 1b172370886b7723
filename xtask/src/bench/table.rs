//! The one table, as text or as JSON.

use serde_json::{Value, json};

use super::aims::{ROWS, Row};

/// What a program told of one row.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The program's name in the table.
    pub program: &'static str,
    /// The line it printed.
    pub told: Value,
}

impl Measured {
    fn is_of(&self, row: &Row) -> bool {
        self.program == row.from.0 && self.told["row"] == row.from.1
    }

    fn value(&self) -> Option<f64> {
        self.told["value"].as_f64()
    }
}

/// Three significant figures, thousands apart.
fn figure(value: f64) -> String {
    if value >= 1_000.0 {
        return format!("{},{:03}", (value / 1_000.0).floor(), (value % 1_000.0).floor());
    }
    let places = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.places$}")
}

/// The value with its unit, and the interval it lies in where one was told.
fn here(measured: &Measured) -> String {
    let Some(value) = measured.value() else { return "?".to_owned() };
    let unit = measured.told["unit"].as_str().unwrap_or_default();
    let between = match (measured.told["low"].as_f64(), measured.told["high"].as_f64()) {
        (Some(low), Some(high)) => format!(" ({}-{})", figure(low), figure(high)),
        _ => String::new(),
    };
    format!("{}{between} {unit}", figure(value))
}

fn aim(row: &Row) -> String {
    match row.aim {
        super::aims::Aim::AtMost(most) => format!("<= {}", figure(most)),
        super::aims::Aim::AtLeast(least) => format!(">= {}", figure(least)),
        super::aims::Aim::None => String::new(),
    }
}

fn met(row: &Row, measured: &Measured) -> &'static str {
    match measured.value().and_then(|value| row.aim.is_met(value)) {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "",
    }
}

/// Text, aligned; rows that were not measured are left out.
pub fn text(measured: &[Measured]) -> String {
    let mut lines = vec![["work", "here", "aim", "met", "elsewhere"].map(str::to_owned)];
    for row in ROWS {
        let Some(one) = measured.iter().find(|one| one.is_of(row)) else { continue };
        lines.push([row.work.to_owned(), here(one), aim(row), met(row, one).to_owned(), row.elsewhere.to_owned()]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    let shown = |line: &[String; 5]| {
        let [work, here, aim, met, elsewhere] = line;
        let [a, b, c, d] = widths;
        format!("{work:<a$}  {here:>b$}  {aim:>c$}  {met:<d$}  {elsewhere}").trim_end().to_owned() + "\n"
    };
    lines.iter().map(shown).collect()
}

/// All that was told, with what the table says beside it.
pub fn json(measured: &[Measured]) -> String {
    let entry = |one: &Measured| {
        let mut entry = one.told.clone();
        entry["program"] = one.program.into();
        if let Some(row) = ROWS.iter().find(|row| one.is_of(row)) {
            entry["work"] = row.work.into();
            entry["elsewhere"] = row.elsewhere.into();
            entry["aim"] = aim(row).into();
            entry["met"] = one.value().and_then(|value| row.aim.is_met(value)).into();
        }
        entry
    };
    let rows: Vec<Value> = measured.iter().map(entry).collect();
    format!("{:#}\n", json!({ "rows": rows }))
}

#[cfg(test)]
mod tests;
