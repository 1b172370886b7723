//! Where the nodes of a picture go: columns by how far a workload is from those nobody asks, rows so that edges cross
//! little.
//!
//! Edges that close a circle are turned around for this alone. Ties are broken by name, so a graph has one picture.

use super::Graph;
use std::collections::{BTreeMap, BTreeSet};

/// Column and row of every node, by name.
pub type Places<'a> = BTreeMap<&'a str, (usize, usize)>;

/// Sweeps over the columns that untangle the rows.
const SWEEPS: usize = 8;

/// Places all nodes.
pub fn places(graph: &Graph) -> Places<'_> {
    let nodes: Vec<&str> = graph.nodes().into_iter().collect();
    let index: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let edges: BTreeSet<(usize, usize)> = graph
        .edges
        .keys()
        .map(|(client, server)| (index[client.as_str()], index[server.as_str()]))
        .filter(|(client, server)| client != server)
        .collect();
    let mut below = vec![Vec::new(); nodes.len()];
    edges.iter().for_each(|(client, server)| below[*client].push(*server));
    let order = order(&below, &edges);
    let columns = columns(&order, &below);
    let rows = rows(&columns, &edges);
    nodes.iter().enumerate().map(|(at, name)| (*name, (columns[at], rows[at]))).collect()
}

/// An order in which, circles aside, clients come before servers. Those nobody asks start.
fn order(below: &[Vec<usize>], edges: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let asked: BTreeSet<usize> = edges.iter().map(|(_, server)| *server).collect();
    let starts = (0..below.len()).filter(|at| !asked.contains(at)).chain(0..below.len());
    let (mut seen, mut done) = (vec![false; below.len()], Vec::new());
    for start in starts {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        // A node is done when all below it are; the stack remembers how far each one got.
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.last_mut() {
            match below[*at].get(*next) {
                Some(server) => {
                    *next += 1;
                    if !seen[*server] {
                        seen[*server] = true;
                        stack.push((*server, 0));
                    }
                }
                None => {
                    done.push(*at);
                    stack.pop();
                }
            }
        }
    }
    done.reverse();
    done
}

/// The longest way from a start, over edges that follow the order.
fn columns(order: &[usize], below: &[Vec<usize>]) -> Vec<usize> {
    let mut position = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, node)| position[*node] = at);
    let mut columns = vec![0; order.len()];
    for node in order {
        for server in below[*node].iter().filter(|server| position[**server] > position[*node]) {
            columns[*server] = columns[*server].max(columns[*node] + 1);
        }
    }
    columns
}

/// Rows within the columns: each node near the middle of its neighbours.
fn rows(columns: &[usize], edges: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    let width = columns.iter().max().map_or(0, |last| last + 1);
    let mut by_column: Vec<Vec<usize>> = vec![Vec::new(); width];
    columns.iter().enumerate().for_each(|(node, column)| by_column[*column].push(node));
    let mut neighbours = vec![Vec::new(); columns.len()];
    for (client, server) in edges {
        neighbours[*client].push(*server);
        neighbours[*server].push(*client);
    }
    let mut rows = vec![0; columns.len()];
    let renumber = |column: &[usize], rows: &mut Vec<usize>| {
        column.iter().enumerate().for_each(|(row, node)| rows[*node] = row);
    };
    by_column.iter().for_each(|column| renumber(column, &mut rows));
    for sweep in 0..SWEEPS {
        for step in 0..width {
            let at = if sweep % 2 == 0 { step } else { width - 1 - step };
            // In thousandths, so that sorting is exact.
            let middle = |node: usize| {
                let near: Vec<usize> =
                    neighbours[node].iter().filter(|other| columns[**other] != at).map(|other| rows[*other]).collect();
                if near.is_empty() { rows[node] * 1_000 } else { near.iter().sum::<usize>() * 1_000 / near.len() }
            };
            let mut keyed: Vec<(usize, usize)> = by_column[at].iter().map(|node| (middle(*node), *node)).collect();
            keyed.sort_unstable();
            by_column[at] = keyed.into_iter().map(|(_, node)| node).collect();
            renumber(&by_column[at], &mut rows);
        }
    }
    rows
}
