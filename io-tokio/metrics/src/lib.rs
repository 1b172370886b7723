//! Prometheus metrics with the names users already have dashboards for.
