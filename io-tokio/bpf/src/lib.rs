//! Desired state onto kernel maps, and kernel events into the agent.
