// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title CALIBER Valuation Hub
/// @notice Keeps, for each feed, the newest valuation report that k of n signers agreed on. A feed
///         is one pledged token, or a portfolio: keccak256(abi.encode(chainId, collateralToken,
///         tokenId)). The hub publishes facts and acts on nothing: it holds no funds and no role in
///         any other contract.
///
///         Who may do what:
///         - anyone may carry a signed report here (`submit`); the signatures are the authority;
///         - the guardian may only pull the ripcord (`pause`): no reading is then fresh, and no
///           report is taken. It can neither write a value nor lift the pause;
///         - the admin registers feeds, rotates signers, names the guardian and lifts a pause. It
///           cannot write a value either, but it can name signers who can: put it behind a timelock.
///
///         For readers: a value may be used only while `fresh` is true. `fresh == false` means the
///         value is unknown now, not that it is zero or what it last was.
contract ValuationHub {
    /// @dev Amounts are in units of 10^-decimals dollars. Times are UTC seconds.
    struct Report {
        bytes32 feedId;
        uint32 round; // strictly increasing per feed, from 1
        uint8 decimals; // of the four amounts; fixed when the feed is registered
        uint128 olv; // orderly liquidation value of what is counted
        uint128 nolv; // the same net of the cost of sale
        uint128 p10; // 10th percentile of olv
        uint128 p90; // 90th percentile of olv
        uint16 ltvGrossBps; // debt over olv, advisory; 0: no debt reported; 65535: that or more
        uint16 ltvNetBps; // debt over nolv, likewise
        uint16 coverageBps; // share of the pledge that is counted
        uint8 assurance; // 0 to 4, and 128 for custody
        uint8 flags; // FLAG_ constants below; unknown bits are refused
        uint40 observedAt; // oldest evidence counted, never the time of this transaction
        uint40 validUntil; // last second at which the report may be used
        uint32 configVersion; // signer set under which it was signed
        bytes32 evidenceRoot; // Merkle root over the evidence counted
        bytes32 methodologyHash; // policy, parameters and price snapshot the value came from
    }

    /// @notice What `latest` returns: the part of a report that is kept in storage.
    struct Reading {
        uint32 round;
        uint8 decimals;
        uint128 olv;
        uint128 nolv;
        uint16 ltvGrossBps;
        uint16 ltvNetBps;
        uint16 coverageBps;
        uint8 assurance;
        uint8 flags;
        uint40 observedAt;
        uint40 validUntil;
        uint40 postedAt;
    }

    /// @dev Exactly two storage words, so that a report costs two writes.
    struct Feed {
        uint32 round;
        uint8 decimals; // 0: not registered
        uint16 ltvGrossBps;
        uint16 ltvNetBps;
        uint16 coverageBps;
        uint8 assurance;
        uint8 flags;
        uint40 observedAt;
        uint40 validUntil;
        uint40 postedAt;
        uint128 olv;
        uint128 nolv;
    }

    /// @dev One storage word, read once per report.
    struct Config {
        address guardian;
        uint32 version;
        uint8 threshold;
        uint8 signers;
        bool paused;
    }

    uint8 public constant FLAG_RIPCORD = 1; // do not use the value
    uint8 public constant FLAG_COUNTERSIGNED = 2; // an appraiser signed too
    uint8 public constant FLAG_UNDER_REVIEW = 4; // stop new lending; a person is looking
    uint8 public constant FLAG_SIMULATED = 8; // not real hardware; local development chains only
    uint8 public constant FLAG_STALE = 16; // something pledged fell silent and is not counted
    uint8 internal constant KNOWN_FLAGS = 31;

    uint8 public constant ASSURANCE_MAX = 4;
    uint8 public constant ASSURANCE_CUSTODY = 128;
    uint16 public constant FULL_BPS = 10_000;
    /// @notice Longest time a value may be used after its oldest evidence.
    uint40 public constant VALIDITY_MAX_S = 72 hours;
    /// @notice Largest step between two rounds: a lost quorum must not be able to use them all up.
    uint32 public constant ROUND_STEP_MAX = 65_536;
    uint8 public constant SIGNERS_MAX = 31;
    uint8 public constant DECIMALS_MAX = 18;

    bytes32 public constant REPORT_TYPEHASH = keccak256(
        "Report(bytes32 feedId,uint32 round,uint8 decimals,uint128 olv,uint128 nolv,uint128 p10,uint128 p90,uint16 ltvGrossBps,uint16 ltvNetBps,uint16 coverageBps,uint8 assurance,uint8 flags,uint40 observedAt,uint40 validUntil,uint32 configVersion,bytes32 evidenceRoot,bytes32 methodologyHash)"
    );
    bytes32 internal constant DOMAIN_TYPEHASH = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    );
    bytes32 internal constant NAME_HASH = keccak256("Assay CALIBER Valuation Hub");
    bytes32 internal constant VERSION_HASH = keccak256("1");
    /// @dev Half the order of secp256k1: a higher s is the same signature written another way.
    uint256 internal constant S_MAX =
        0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;
    bytes32 internal constant S_MASK =
        0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff;

    uint256 internal immutable DOMAIN_CHAIN_ID;
    bytes32 internal immutable DOMAIN_SEPARATOR;

    Config public config;
    address public admin;
    address public pendingAdmin;
    mapping(bytes32 feedId => Feed) internal feeds;
    /// @notice Config version under which an address may sign; older versions are void.
    mapping(address signer => uint32 version) public signerVersion;

    event FeedRegistered(
        bytes32 indexed feedId,
        uint256 chainId,
        address indexed collateralToken,
        uint256 indexed tokenId,
        uint8 decimals
    );
    /// @notice The whole report: with the domain, all that is needed to recompute its digest.
    event ReportPosted(bytes32 indexed feedId, uint32 indexed round, Report report);
    event SignersChanged(uint32 indexed version, uint8 threshold, address[] signers);
    event GuardianChanged(address indexed guardian);
    event AdminOffered(address indexed pendingAdmin);
    event AdminChanged(address indexed admin);
    event RipcordPulled(address indexed by);
    event RipcordReleased(address indexed by);

    error NotAdmin(address caller);
    error NotGuardian(address caller);
    error ZeroAddress();
    error BadThreshold(uint256 threshold, uint256 signers);
    error SignersNotSorted(address signer);
    error FeedExists(bytes32 feedId);
    error UnknownFeed(bytes32 feedId);
    error NoReport(bytes32 feedId);
    error HubPaused();
    error RoundNotNewer(uint32 round, uint32 current);
    error RoundTooFarAhead(uint32 round, uint32 current);
    error ObservationOlder(uint40 observedAt, uint40 current);
    error ObservedInFuture(uint40 observedAt, uint256 blockTime);
    error Expired(uint40 validUntil, uint256 blockTime);
    error ValidityTooLong(uint40 observedAt, uint40 validUntil);
    error WrongConfigVersion(uint32 version, uint32 current);
    error WrongDecimals(uint8 decimals, uint8 registered);
    error UnknownFlags(uint8 flags);
    error UnknownAssurance(uint8 assurance);
    error CoverageAboveFull(uint16 coverageBps);
    error AmountsOutOfOrder(uint128 p10, uint128 olv, uint128 p90, uint128 nolv);
    error ValueWithoutCoverage(uint128 p90, uint16 coverageBps);
    error CoverageWithoutValue(uint16 coverageBps);
    error SimulatedReport(uint256 chainId);
    error SignaturesMalformed(uint256 length);
    error TooFewSignatures(uint256 given, uint256 threshold);
    error HighS(uint256 index);
    error UnknownSigner(address signer);
    error SignaturesNotSorted(address signer);

    modifier onlyAdmin() {
        if (msg.sender != admin) revert NotAdmin(msg.sender);
        _;
    }

    /// @param signers strictly ascending addresses, so that none counts twice.
    constructor(address admin_, address guardian_, address[] memory signers, uint8 threshold) {
        if (admin_ == address(0)) revert ZeroAddress();
        DOMAIN_CHAIN_ID = block.chainid;
        DOMAIN_SEPARATOR = _buildDomainSeparator();
        admin = admin_;
        emit AdminChanged(admin_);
        _setGuardian(guardian_);
        _setSigners(signers, threshold);
    }

    // ---------------------------------------------------------------- writing

    /// @notice Takes one report. `signatures` is one 64-byte signature (EIP-2098: r, then s with the
    ///         recovery bit on top) per signer, in ascending order of the signers' addresses.
    /// @dev The round is checked before any signature, so that losing a race is cheap.
    function submit(Report calldata report, bytes calldata signatures) external {
        Feed storage feed = feeds[report.feedId];
        _checkAgainstFeed(report, feed);
        _checkContent(report);
        Config memory current = config;
        if (current.paused) revert HubPaused();
        if (report.configVersion != current.version) {
            revert WrongConfigVersion(report.configVersion, current.version);
        }
        bytes memory encoded = _encode(report);
        _checkSignatures(_digest(encoded), signatures, current);

        feed.round = report.round;
        feed.ltvGrossBps = report.ltvGrossBps;
        feed.ltvNetBps = report.ltvNetBps;
        feed.coverageBps = report.coverageBps;
        feed.assurance = report.assurance;
        feed.flags = report.flags;
        feed.observedAt = report.observedAt;
        feed.validUntil = report.validUntil;
        feed.postedAt = uint40(block.timestamp);
        feed.olv = report.olv;
        feed.nolv = report.nolv;
        _emitPosted(report.feedId, report.round, encoded);
    }

    function _checkAgainstFeed(Report calldata report, Feed storage feed) internal view {
        (uint8 decimals, uint32 round, uint40 observedAt) =
            (feed.decimals, feed.round, feed.observedAt);
        if (decimals == 0) revert UnknownFeed(report.feedId);
        if (report.round <= round) revert RoundNotNewer(report.round, round);
        if (report.round - round > ROUND_STEP_MAX) revert RoundTooFarAhead(report.round, round);
        if (report.observedAt < observedAt) {
            revert ObservationOlder(report.observedAt, observedAt);
        }
        if (report.decimals != decimals) revert WrongDecimals(report.decimals, decimals);
    }

    function _checkContent(Report calldata report) internal view {
        if (report.observedAt > block.timestamp) {
            revert ObservedInFuture(report.observedAt, block.timestamp);
        }
        if (report.validUntil <= block.timestamp) {
            revert Expired(report.validUntil, block.timestamp);
        }
        // validUntil > block.timestamp >= observedAt, so the difference cannot wrap.
        if (report.validUntil - report.observedAt > VALIDITY_MAX_S) {
            revert ValidityTooLong(report.observedAt, report.validUntil);
        }
        if (report.flags & ~KNOWN_FLAGS != 0) revert UnknownFlags(report.flags);
        if (report.flags & FLAG_SIMULATED != 0 && !isDevelopmentChain()) {
            revert SimulatedReport(block.chainid);
        }
        if (report.assurance & ~ASSURANCE_CUSTODY > ASSURANCE_MAX) {
            revert UnknownAssurance(report.assurance);
        }
        if (report.coverageBps > FULL_BPS) revert CoverageAboveFull(report.coverageBps);
        if (report.p10 > report.olv || report.olv > report.p90 || report.nolv > report.olv) {
            revert AmountsOutOfOrder(report.p10, report.olv, report.p90, report.nolv);
        }
        // Zero says "nothing is counted" and nothing else: a zero from a broken source is refused.
        if (report.coverageBps == 0) {
            if (report.p90 != 0) revert ValueWithoutCoverage(report.p90, report.coverageBps);
        } else if (report.olv == 0) {
            revert CoverageWithoutValue(report.coverageBps);
        }
    }

    function _checkSignatures(bytes32 hash, bytes calldata signatures, Config memory current)
        internal
        view
    {
        uint256 count = signatures.length / 64;
        if (signatures.length != count * 64) revert SignaturesMalformed(signatures.length);
        if (count < current.threshold) revert TooFewSignatures(count, current.threshold);
        address previous = address(0);
        for (uint256 i = 0; i < count; ++i) {
            bytes32 r = bytes32(signatures[i * 64:i * 64 + 32]);
            bytes32 vs = bytes32(signatures[i * 64 + 32:i * 64 + 64]);
            bytes32 s = vs & S_MASK;
            if (uint256(s) > S_MAX) revert HighS(i);
            address signer = ecrecover(hash, uint8(uint256(vs) >> 255) + 27, r, s);
            // A signature that recovers nothing gives the zero address, which never is a signer.
            if (signerVersion[signer] != current.version) revert UnknownSigner(signer);
            if (signer <= previous) revert SignaturesNotSorted(signer);
            previous = signer;
        }
    }

    // ---------------------------------------------------------------- reading

    /// @notice The newest report of a feed. Use it only when `fresh`: not expired, no ripcord, hub
    ///         not paused, and something is counted. Reverts for a feed that was never registered
    ///         or never reported, so that a wrong id is never read as a value of zero.
    function latest(bytes32 feedId) external view returns (Reading memory reading, bool fresh) {
        Feed storage feed = feeds[feedId];
        if (feed.decimals == 0) revert UnknownFeed(feedId);
        if (feed.round == 0) revert NoReport(feedId);
        reading = Reading({
            round: feed.round,
            decimals: feed.decimals,
            olv: feed.olv,
            nolv: feed.nolv,
            ltvGrossBps: feed.ltvGrossBps,
            ltvNetBps: feed.ltvNetBps,
            coverageBps: feed.coverageBps,
            assurance: feed.assurance,
            flags: feed.flags,
            observedAt: feed.observedAt,
            validUntil: feed.validUntil,
            postedAt: feed.postedAt
        });
        // Whoever reads only the flags must see the pause too.
        if (config.paused) reading.flags |= FLAG_RIPCORD;
        fresh = block.timestamp <= reading.validUntil && reading.flags & FLAG_RIPCORD == 0
            && reading.coverageBps != 0;
    }

    /// @notice Newest round of a registered feed; 0 before its first report.
    function roundOf(bytes32 feedId) external view returns (uint32) {
        Feed storage feed = feeds[feedId];
        if (feed.decimals == 0) revert UnknownFeed(feedId);
        return feed.round;
    }

    /// @notice Decimals of a registered feed; 0 for one that is not registered.
    function decimalsOf(bytes32 feedId) external view returns (uint8) {
        return feeds[feedId].decimals;
    }

    /// @notice What the signers sign (EIP-712).
    function digest(Report calldata report) external view returns (bytes32) {
        return _digest(abi.encode(REPORT_TYPEHASH, report));
    }

    function _digest(bytes memory encoded) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator(), keccak256(encoded)));
    }

    /// @dev abi.encode(REPORT_TYPEHASH, report) without a copy of every member: about 2,000 gas.
    ///      The 17 members are static words. Their types were checked where `submit` read them:
    ///      the compiler reverts on a member with bits above its type.
    function _encode(Report calldata report) internal pure returns (bytes memory encoded) {
        bytes32 typeHash = REPORT_TYPEHASH;
        assembly ("memory-safe") {
            encoded := mload(0x40)
            mstore(encoded, 576)
            mstore(add(encoded, 32), typeHash)
            calldatacopy(add(encoded, 64), report, 544)
            mstore(0x40, add(encoded, 608))
        }
    }

    /// @dev `emit ReportPosted(feedId, round, report)` from the words that were just hashed.
    function _emitPosted(bytes32 feedId, uint32 round, bytes memory encoded) internal {
        bytes32 topic = ReportPosted.selector;
        assembly ("memory-safe") {
            log3(add(encoded, 64), 544, topic, feedId, round)
        }
    }

    /// @dev Recomputed after a fork changed the chain id: a signature is for one chain only.
    function domainSeparator() public view returns (bytes32) {
        return block.chainid == DOMAIN_CHAIN_ID ? DOMAIN_SEPARATOR : _buildDomainSeparator();
    }

    function feedIdOf(uint256 chainId, address collateralToken, uint256 tokenId)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(chainId, collateralToken, tokenId));
    }

    /// @notice Chain ids of local development nodes, fixed here: nobody can configure a real chain
    ///         to take simulated reports.
    function isDevelopmentChain() public view returns (bool) {
        return block.chainid == 31337 || block.chainid == 1337
            || block.chainid == 131277322940537;
    }

    function _buildDomainSeparator() internal view returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this))
        );
    }

    // ---------------------------------------------------------------- administration

    /// @param chainId chain of the collateral token, which may be another than this one.
    function registerFeed(
        uint256 chainId,
        address collateralToken,
        uint256 tokenId,
        uint8 decimals
    ) external onlyAdmin returns (bytes32 feedId) {
        if (decimals == 0 || decimals > DECIMALS_MAX) revert WrongDecimals(decimals, DECIMALS_MAX);
        feedId = feedIdOf(chainId, collateralToken, tokenId);
        if (feeds[feedId].decimals != 0) revert FeedExists(feedId);
        feeds[feedId].decimals = decimals;
        emit FeedRegistered(feedId, chainId, collateralToken, tokenId, decimals);
    }

    /// @notice Replaces the signer set. Signatures under the old one are void at once.
    function rotateSigners(address[] calldata signers, uint8 threshold) external onlyAdmin {
        _setSigners(signers, threshold);
    }

    function setGuardian(address guardian) external onlyAdmin {
        _setGuardian(guardian);
    }

    /// @notice Pulls the ripcord for every feed of this hub.
    function pause() external {
        if (msg.sender != config.guardian && msg.sender != admin) revert NotGuardian(msg.sender);
        config.paused = true;
        emit RipcordPulled(msg.sender);
    }

    function unpause() external onlyAdmin {
        config.paused = false;
        emit RipcordReleased(msg.sender);
    }

    /// @notice First half of a handover: nothing changes until the new admin accepts.
    function offerAdmin(address pendingAdmin_) external onlyAdmin {
        pendingAdmin = pendingAdmin_;
        emit AdminOffered(pendingAdmin_);
    }

    function acceptAdmin() external {
        if (msg.sender != pendingAdmin) revert NotAdmin(msg.sender);
        admin = msg.sender;
        pendingAdmin = address(0);
        emit AdminChanged(msg.sender);
    }

    function _setGuardian(address guardian) internal {
        if (guardian == address(0)) revert ZeroAddress();
        config.guardian = guardian;
        emit GuardianChanged(guardian);
    }

    /// @dev A majority is required: no two disjoint quorums can then sign different values.
    function _setSigners(address[] memory signers, uint8 threshold) internal {
        uint256 count = signers.length;
        if (count > SIGNERS_MAX || threshold > count || uint256(threshold) * 2 <= count) {
            revert BadThreshold(threshold, count);
        }
        uint32 version = config.version + 1;
        address previous = address(0);
        for (uint256 i = 0; i < count; ++i) {
            if (signers[i] <= previous) revert SignersNotSorted(signers[i]);
            previous = signers[i];
            signerVersion[previous] = version;
        }
        config.version = version;
        config.threshold = threshold;
        config.signers = uint8(count);
        emit SignersChanged(version, threshold, signers);
    }
}
