// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// A loan router V2 as far as its reading goes, for tests: anyone may set what it says of a loan.
contract LoanRouterFake {
    enum LoanStatus {
        Uninitialized,
        Active,
        Repaid,
        Breached,
        Liquidated,
        CollateralLiquidated
    }

    struct State {
        LoanStatus status;
        uint16 repaymentCount;
        uint64 originationTimestamp;
        uint256 balance;
    }

    mapping(bytes32 => State) private _loans;

    function set(bytes32 termsHash, LoanStatus status, uint16 count, uint64 originated, uint256 balance)
        external
    {
        _loans[termsHash] = State(status, count, originated, balance);
    }

    function loanState(bytes32 termsHash) external view returns (LoanStatus, uint16, uint64, uint256) {
        State storage loan = _loans[termsHash];
        return (loan.status, loan.repaymentCount, loan.originationTimestamp, loan.balance);
    }

    /// The twin that takes a lender's position: whoever calls it by mistake reads this.
    function loanState(uint256) external pure returns (LoanStatus, uint16, uint64, uint256) {
        return (LoanStatus.Repaid, 65535, 1, 1);
    }
}
