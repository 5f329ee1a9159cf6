"""Errors of enrolment; each is one line that says what to do."""

from wire_contract.errors import ContractError


class EnrolmentError(ContractError):
    """This cannot be issued or revoked, or the authority's folder cannot be used."""
