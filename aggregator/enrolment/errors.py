"""What can go wrong in enrolment; each a line that says what to do."""

from wire_contract.errors import ContractError


class EnrolmentError(ContractError):
    """This cannot be issued or revoked, or the authority's folder cannot be used."""
