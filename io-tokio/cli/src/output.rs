//! Tables for people, JSON for scripts.

use std::io::Write;

use serde::Serialize;

use crate::CliError;
use crate::arguments::Format;

/// Where a command shows what it found.
pub(crate) struct Screen<'a> {
    out: &'a mut dyn Write,
    format: Option<Format>,
}

impl<'a> Screen<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, format: Option<Format>) -> Self {
        Self { out, format }
    }
    pub(crate) fn is_json(&self) -> bool {
        self.format == Some(Format::Json)
    }
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(&text)
    }
    /// One object on one line, at once: for events.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value)?;
        self.line(&text)?;
        Ok(self.out.flush()?)
    }
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{text}")?)
    }
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        Ok(self.out.write_all(bytes)?)
    }
    /// The value as JSON when that was asked for, otherwise the table.
    pub(crate) fn show(&mut self, value: &impl Serialize, table: impl FnOnce() -> Table) -> Result<(), CliError> {
        if self.is_json() { self.json(value) } else { self.table(&table()) }
    }
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), CliError> {
        let text = table.to_text();
        self.raw(text.as_bytes())
    }
}

/// Rows under headings; columns are as wide as they need to be, cells may have several lines.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Between columns.
const GAP: usize = 3;

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).to_vec()] }
    }
    pub(crate) fn without_headings() -> Self {
        Self::default()
    }
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
    pub(crate) fn to_text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let widths = self.rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.lines());
            widths.map(|line| line.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
            for at in 0..height {
                let mut line = String::new();
                for (cell, width) in row.iter().zip(&widths) {
                    line.push_str(&format!("{:<w$}", cell.lines().nth(at).unwrap_or(""), w = width + GAP));
                }
                out.push_str(line.trim_end());
                out.push('\n');
            }
        }
        out
    }
}
