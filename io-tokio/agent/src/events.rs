//! Records of the kernel's ring on their way to Hubble and to the event feed.

use std::sync::Arc;

use bpf::Batch;
use hubble_api::flow::LostEventSource;
use hubble_model::Decoder;
use hubble_server::Observer;
use metrics::Metrics;
use tokio::sync::mpsc;

use crate::lookup::Names;
use crate::monitor::Feed;

/// Where records go.
#[derive(Debug)]
pub struct Outlets {
    /// Hubble, with the decoder that knows names.
    pub hubble: Option<(Observer, Decoder<Names>)>,
    /// The feed.
    pub feed: Feed,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Hands batches on until there are no more.
pub async fn hand_on(mut batches: mpsc::Receiver<Batch>, outlets: Outlets) {
    let mut complained = false;
    while let Some(batch) = batches.recv().await {
        if batch.lost > 0 {
            outlets.metrics.lost_events("perf_event_ring_buffer", batch.lost);
        }
        outlets.feed.publish(batch.lost, batch.records());
        let Some((observer, decoder)) = &outlets.hubble else { continue };
        if batch.lost > 0 {
            observer.publish_lost(LostEventSource::PerfEventRingBuffer, batch.lost, None);
        }
        for record in batch.records() {
            if let Err(why) = observer.publish_record(decoder, record) {
                outlets.metrics.lost_events("observer_events_queue", 1);
                if !complained {
                    tracing::warn!(%why, "a record of the programs makes no sense; more of them are only counted");
                    complained = true;
                }
            }
        }
    }
}
