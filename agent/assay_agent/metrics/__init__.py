"""What Prometheus sees of a host: the agent's own state and every reading of every GPU."""

from assay_agent.metrics.agent import AgentMetrics, UplinkState

__all__ = ["AgentMetrics", "UplinkState"]
