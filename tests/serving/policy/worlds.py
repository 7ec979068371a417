"""Configurations and requests that the policy tests share."""

from __future__ import annotations

from serving.policy import PolicyConfig, Request, Tier, TierScheduler, TierTarget, exact

# The measured 10M-parameter model of docs: 5.4 ms a step, 1.2 ms a row, 0.4 ms a prompt token.
MODEL = exact(base_s=0.0054, row_s=0.0012, prefill_token_s=0.0004, context_token_s=1e-7)
CONFIG = PolicyConfig(
    targets={
        Tier.KEYSTROKE: TierTarget(latency_s=0.3, step_cap_s=0.012, max_waiting=64),
        Tier.INTERACTIVE: TierTarget(latency_s=1.0, token_s=0.05, step_cap_s=0.022, max_waiting=64),
        Tier.BATCH: TierTarget(latency_s=3600.0, max_waiting=10_000),
    }
)
SLOTS = 8


def scheduler(config: PolicyConfig = CONFIG, slots: int = SLOTS) -> TierScheduler:
    return TierScheduler(config, num_slots=slots, model=MODEL)


def request(
    request_id: str,
    tier: Tier,
    arrival_s: float = 0.0,
    *,
    prompt: int = 64,
    tokens: int = 8,
    session: str | None = None,
    deadline_s: float | None = None,
    retry_key: str | None = None,
) -> Request:
    due_s = CONFIG.targets[tier].deadline_s(arrival_s, tokens) if deadline_s is None else deadline_s
    return Request(
        id=request_id, tier=tier, arrival_s=arrival_s, deadline_s=due_s, prompt_tokens=prompt, max_tokens=tokens,
        session=session, retry_key=retry_key,
    )  # fmt: skip


def backlog(count: int, *, tokens: int = 64) -> list[Request]:
    """Batch rows that are all there from the start."""
    return [request(f"b{index:04}", Tier.BATCH, tokens=tokens) for index in range(count)]
