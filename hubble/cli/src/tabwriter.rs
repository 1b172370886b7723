//! Columns aligned by spaces, laid out as the elastic tabstops of the original do it.
//!
//! A column is a run of neighbouring lines that all have a cell there; the text behind a line's last tab belongs to
//! no column. Text is held back until a line without tabs, or the end, shows how wide the columns are.

use std::mem;

const MIN_WIDTH: usize = 2;
const PADDING: usize = 3;

/// Collects tab-separated lines and lays them out.
#[derive(Debug, Default)]
pub struct TabWriter {
    /// Lines of cells; the last is not ended yet.
    lines: Vec<Vec<String>>,
    cell: String,
    out: String,
}

impl TabWriter {
    /// Adds text; tabs end cells, line feeds end lines.
    pub fn write(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\t' => {
                    let cell = mem::take(&mut self.cell);
                    self.line().push(cell);
                }
                '\n' => {
                    let cell = mem::take(&mut self.cell);
                    self.line().push(cell);
                    let alone = self.line().len() == 1;
                    self.lines.push(Vec::new());
                    if alone {
                        self.flush();
                    }
                }
                c => self.cell.push(c),
            }
        }
    }

    fn line(&mut self) -> &mut Vec<String> {
        if self.lines.is_empty() {
            self.lines.push(Vec::new());
        }
        self.lines.last_mut().expect("a line was just made")
    }

    fn flush(&mut self) {
        let lines = mem::take(&mut self.lines);
        let mut widths = Vec::new();
        layout(&lines, &mut widths, &mut self.out, (0, lines.len()), lines.len());
    }

    /// The laid out text so far, and everything still held back.
    pub fn finish(&mut self) -> String {
        if !self.cell.is_empty() {
            let cell = mem::take(&mut self.cell);
            self.line().push(cell);
        }
        self.flush();
        mem::take(&mut self.out)
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn layout(lines: &[Vec<String>], widths: &mut Vec<usize>, out: &mut String, range: (usize, usize), total: usize) {
    let (mut from, to) = range;
    let column = widths.len();
    let mut at = from;
    while at < to {
        if column + 1 >= lines[at].len() {
            at += 1;
            continue;
        }
        print(lines, widths, out, (from, at), total);
        from = at;
        let mut wide = MIN_WIDTH;
        while at < to && column + 1 < lines[at].len() {
            wide = wide.max(width(&lines[at][column]) + PADDING);
            at += 1;
        }
        widths.push(wide);
        layout(lines, widths, out, (from, at), total);
        widths.pop();
        from = at;
        at += 1;
    }
    print(lines, widths, out, (from, to), total);
}

fn print(lines: &[Vec<String>], widths: &[usize], out: &mut String, (from, to): (usize, usize), total: usize) {
    for (at, line) in lines.iter().enumerate().take(to).skip(from) {
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(wide) = widths.get(column) {
                out.extend(std::iter::repeat_n(' ', wide.saturating_sub(width(cell))));
            }
        }
        if at + 1 < total {
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut tabs = TabWriter::default();
        tabs.write("A\tB\tC\nlonger\tx\t\n");
        assert_eq!(tabs.finish(), "A        B   C\nlonger   x   \n");
    }

    #[test]
    fn a_line_without_tabs_ends_the_columns() {
        let mut tabs = TabWriter::default();
        tabs.write("a\tb\nalone\nlonger\tb\n");
        assert_eq!(tabs.finish(), "a   b\nalone\nlonger   b\n");
    }
}
