//! The graph as a picture that browsers show.

use super::{Edge, Graph, layout::places, text::color};
use crate::printer::safe;
use std::collections::BTreeMap;

const CHAR: usize = 7;
const BOX_HEIGHT: usize = 30;
const ROW: usize = 64;
/// Room for labels between columns.
const GAP: usize = 230;
const MARGIN: usize = 20;

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in safe(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What XML has no place for.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A box on the picture.
struct Placed {
    x: usize,
    y: usize,
    width: usize,
}

impl Placed {
    fn right(&self) -> usize {
        self.x + self.width
    }

    fn middle(&self) -> usize {
        self.y + BOX_HEIGHT / 2
    }
}

/// The picture.
pub fn svg(graph: &Graph) -> String {
    let places = places(graph);
    let column_count = places.values().map(|(column, _)| column + 1).max().unwrap_or(0);
    let row_count = places.values().map(|(_, row)| row + 1).max().unwrap_or(0);
    let mut widths = vec![0; column_count];
    let mut heights = vec![0; column_count];
    for (name, (column, _)) in &places {
        widths[*column] = widths[*column].max(name.chars().count() * CHAR + 2 * CHAR);
        heights[*column] += 1;
    }
    let left = |column: usize| MARGIN + widths[..column].iter().map(|width| width + GAP).sum::<usize>();
    let boxes: BTreeMap<&str, Placed> = places
        .iter()
        .map(|(name, (column, row))| {
            // Short columns stand in the middle.
            let top = MARGIN + (row_count - heights[*column]) * ROW / 2;
            (*name, Placed { x: left(*column), y: top + row * ROW, width: widths[*column] })
        })
        .collect();
    let (width, height) = (
        (left(column_count) + MARGIN).saturating_sub(GAP).max(2 * MARGIN),
        MARGIN * 2 + row_count.saturating_sub(1) * ROW + BOX_HEIGHT + ROW / 2,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"12\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"context-stroke\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for ((client, server), edge) in &graph.edges {
        out.push_str(&draw(edge, &boxes[client.as_str()], &boxes[server.as_str()], client == server));
    }
    for (name, at) in &boxes {
        let (x, y, width) = (at.x, at.y, at.width);
        out.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"#eef3fb\" stroke=\"#34495e\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            x + width / 2,
            y + 19,
            escape(name)
        ));
    }
    out + "</svg>\n"
}

/// A line from box to box with its label on it.
fn draw(edge: &Edge, from: &Placed, to: &Placed, own: bool) -> String {
    let (path, x, y) = if own {
        let (right, top) = (from.right(), from.y);
        let path = format!(
            "M{},{top} C{},{} {},{} {right},{}",
            right - 20,
            right - 20,
            top.saturating_sub(24),
            right + 24,
            top.saturating_sub(24),
            top + 8
        );
        (path, right + 4, top.saturating_sub(8))
    } else if to.x > from.x {
        let (x1, y1, x2, y2) = (from.right(), from.middle(), to.x, to.middle());
        let bend = (x2 - x1) / 2;
        (format!("M{x1},{y1} C{},{y1} {},{y2} {x2},{y2}", x1 + bend, x2 - bend), x1 + bend, (y1 + y2) / 2)
    } else {
        // Back, or down the same column: below the boxes.
        let (x1, y1, x2, y2) = (from.x + from.width / 2, from.y + BOX_HEIGHT, to.x + to.width / 2, to.y + BOX_HEIGHT);
        let low = y1.max(y2) + ROW / 2;
        (format!("M{x1},{y1} C{x1},{low} {x2},{low} {x2},{y2}"), (x1 + x2) / 2, low)
    };
    let color = color(edge);
    format!(
        "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" marker-end=\"url(#tip)\"/>\
         <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{color}\">{}</text>\
         <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\" fill=\"#555\">{}</text>\n",
        y.saturating_sub(4),
        escape(&edge.title()),
        y + 8,
        escape(&edge.outcome())
    )
}
