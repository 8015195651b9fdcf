//! Wiring of the agent: the only file that knows all actors.

use node_config::agent::AgentConfig;

/// A running agent.
pub struct Agent {}

/// Why the agent could not start; each names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {}

impl Agent {
    /// Starts everything; returns once the tasks run (readiness: `ready`).
    pub async fn start(_config: AgentConfig) -> Result<Self, AgentError> {
        todo!("A1")
    }
    /// Completes when the node has been Ready at the API server.
    pub async fn ready(&self) {
        todo!("A1")
    }
    /// Stops the agent; pods keep running unless `stop_pods`.
    pub async fn stop(self, _stop_pods: bool) {
        todo!("A1")
    }
}
