"""Proofs and guards: derived secrets, verdicts on callbacks, signatures, where requests may go."""
