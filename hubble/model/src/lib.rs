//! Flows: decoding, enrichment, filters, the ring, merging.
