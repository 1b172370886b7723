//! The Hubble server in the agent.
