//! The flows the ring holds, for whoever is in the same process.

use std::collections::VecDeque;

use hubble_api::flow::Flow;

use super::Observer;

/// Events taken from the ring at once, so that writers wait for no longer than that.
const BATCH: usize = 256;

impl Observer {
    /// Calls `each` with every flow from `since_ns` (nanoseconds since 1970) on that is in the ring now, the oldest
    /// first, until it says that it has enough by an error.
    ///
    /// # Errors
    /// Whatever `each` returned.
    pub fn recorded_flows<E>(&self, since_ns: i64, mut each: impl FnMut(&Flow) -> Result<(), E>) -> Result<(), E> {
        let (mut position, end) = self.0.bounds();
        let mut batch = VecDeque::new();
        while position < end {
            batch.clear();
            let room = usize::try_from(end - position).unwrap_or(BATCH).min(BATCH);
            let lost = self.0.read_batch(position, room, &mut batch).count;
            position += lost + batch.len() as u64;
            for event in batch.iter().filter(|event| event.time_ns() >= since_ns) {
                if let Some(flow) = event.to_flow(&self.0.node) {
                    each(&flow)?;
                }
            }
            if batch.is_empty() && lost == 0 {
                break;
            }
        }
        Ok(())
    }
}
