/* The part of NVML's binary interface that the shim answers: types and version words.
 *
 * Restated from the layouts in NVIDIA's Python binding (nvidia-ml-py 13.615.71, pynvml.py), which
 * is the caller the shim must satisfy. A version word is sizeof(struct) | (version << 24); the
 * assertions below therefore prove each layout against the word the binding sends.
 */
#ifndef ASSAY_NVML_ABI_H
#define ASSAY_NVML_ABI_H

#include <stdint.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;
typedef struct nvmlGpmSample_st *nvmlGpmSample_t;
typedef struct nvmlDevice_st *nvmlGpuInstance_t; /* opaque; here one kind of handle serves both */
typedef struct nvmlEventSet_st *nvmlSystemEventSet_t;

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_CORRUPTED_INFOROM = 14,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_LAST = 30,
    NVML_ERROR_UNKNOWN = 999
};

enum {
    NVML_VALUE_TYPE_DOUBLE = 0,
    NVML_VALUE_TYPE_UNSIGNED_INT = 1,
    NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
    NVML_VALUE_TYPE_SIGNED_INT = 5
};

#define NVML_EVENT_XID 0x8ULL
#define NVML_INSTANCE_NONE 0xFFFFFFFFu
#define NVML_NVLINK_MAX_LINKS 36
#define NVML_GPM_METRIC_MAX 477

#define VERSION_WORD(type, version) ((unsigned int)(sizeof(type) | ((version) << 24)))
#define CHECK_VERSION_WORD(type, version, word) \
    _Static_assert(VERSION_WORD(type, version) == (word), #type " does not match the binding")

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned int version, domain, bus, device, pciDeviceId, pciSubSystemId, baseClass, subClass;
    char busId[32];
} nvmlPciInfoExt_t;
CHECK_VERSION_WORD(nvmlPciInfoExt_t, 1, 0x1000040);

typedef struct {
    unsigned int version;
    char branch[80];
} nvmlSystemDriverBranchInfo_t;
CHECK_VERSION_WORD(nvmlSystemDriverBranchInfo_t, 1, 0x1000054);

typedef struct {
    unsigned int version, type;
    union {
        char str[41];
        unsigned char bytes[16];
    } value;
} nvmlUUID_t;
CHECK_VERSION_WORD(nvmlUUID_t, 1, 0x1000034);

typedef struct {
    unsigned int version;
    unsigned long long value;
} nvmlPdi_t;
CHECK_VERSION_WORD(nvmlPdi_t, 1, 0x1000010);

typedef struct {
    unsigned int gpu, memory;
} nvmlUtilization_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
CHECK_VERSION_WORD(nvmlMemory_v2_t, 2, 0x2000028);

typedef struct {
    unsigned int version, sensorType;
    int temperature;
} nvmlTemperature_t;
CHECK_VERSION_WORD(nvmlTemperature_t, 1, 0x100000C);

typedef struct {
    unsigned int version;
    int marginTemperature;
} nvmlMarginTemperature_t;
CHECK_VERSION_WORD(nvmlMarginTemperature_t, 1, 0x1000008);

typedef struct {
    unsigned long long referenceTime, violationTime;
} nvmlViolationTime_t;

typedef struct {
    unsigned long long l1Cache, l2Cache, deviceMemory, registerFile;
} nvmlEccErrorCounts_t;

typedef struct {
    unsigned int version;
    unsigned long long aggregateUncParity, aggregateUncSecDed, aggregateCor;
    unsigned long long volatileUncParity, volatileUncSecDed, volatileCor;
    unsigned long long bucketL2, bucketSm, bucketPcie, bucketMcu, bucketOther;
    unsigned int bThresholdExceeded;
} nvmlEccSramErrorStatus_t;
CHECK_VERSION_WORD(nvmlEccSramErrorStatus_t, 1, 0x1000068);

typedef struct {
    unsigned int corrActive, corrInactive, uncActive, uncInactive, bPending, bFailure;
} nvmlRemappedRowsInfo_v2_t;

typedef struct {
    unsigned int max, high, partial, low, none;
} nvmlRowRemapperHistogram_t;

typedef struct {
    unsigned int version, bChannelRepairPending, bTpcRepairPending;
} nvmlRepairStatus_t;
CHECK_VERSION_WORD(nvmlRepairStatus_t, 1, 0x100000C);

/* nvml.h declares this structure as the flag alone; the binding sends {version, flag}. The key
 * unrepairable_memory_layout chooses which of the two the shim writes. */
typedef struct {
    unsigned int word[2];
} nvmlUnrepairableMemory_t;
CHECK_VERSION_WORD(nvmlUnrepairableMemory_t, 1, 0x1000008);

typedef struct {
    unsigned int timeRun;
} nvmlBBXTimeData_t;

typedef struct {
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint32_t cliqueId, state;
} nvmlGpuFabricInfo_t;

typedef struct {
    unsigned int version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint32_t cliqueId, state, healthMask;
} nvmlGpuFabricInfo_v2_t;
CHECK_VERSION_WORD(nvmlGpuFabricInfo_v2_t, 2, 0x2000024);

typedef struct {
    unsigned int version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint32_t cliqueId, state, healthMask;
    uint8_t healthSummary;
} nvmlGpuFabricInfo_v3_t;
CHECK_VERSION_WORD(nvmlGpuFabricInfo_v3_t, 3, 0x3000028);

typedef struct {
    unsigned int version;
    unsigned char ibGuid[16];
    char chassisSerialNumber[16];
    unsigned char slotNumber, trayIndex, hostId, peerType, moduleId;
} nvmlPlatformInfo_t;
CHECK_VERSION_WORD(nvmlPlatformInfo_t, 2, 0x200002c);

typedef struct {
    unsigned int environment, ccFeature, devToolsMode;
} nvmlConfComputeSystemState_t;

typedef struct {
    unsigned int version, environment, ccFeature, devToolsMode, multiGpuMode;
} nvmlConfComputeSettings_t;
CHECK_VERSION_WORD(nvmlConfComputeSettings_t, 1, 0x1000014);

typedef struct {
    unsigned int cpuCaps, gpusCaps;
} nvmlConfComputeCaps_t;

#define NVML_GPU_CERT_CHAIN_SIZE 0x1000
#define NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE 0x1400

typedef struct {
    unsigned int certChainSize, attestationCertChainSize;
    unsigned char certChain[NVML_GPU_CERT_CHAIN_SIZE];
    unsigned char attestationCertChain[NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE];
} nvmlConfComputeGpuCertificate_t;

#define NVML_CC_GPU_CEC_NONCE_SIZE 0x20
#define NVML_CC_GPU_ATTESTATION_REPORT_SIZE 0x2000
#define NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE 0x1000

typedef struct {
    unsigned int isCecAttestationReportPresent, attestationReportSize, cecAttestationReportSize;
    unsigned char nonce[NVML_CC_GPU_CEC_NONCE_SIZE];
    unsigned char attestationReport[NVML_CC_GPU_ATTESTATION_REPORT_SIZE];
    unsigned char cecAttestationReport[NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE];
} nvmlConfComputeGpuAttestationReport_t;

typedef struct {
    unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount;
    unsigned int sharedEncoderCount, sharedJpegCount, sharedOfaCount;
    unsigned int gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

typedef struct {
    nvmlDevice_t device;
    unsigned int id, profileId, start, size;
} nvmlGpuInstanceInfo_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
    unsigned int version;
    nvmlSystemEventSet_t set;
} nvmlSystemEventSetRequest_t;
CHECK_VERSION_WORD(nvmlSystemEventSetRequest_t, 1, 0x1000010);

typedef struct {
    unsigned int version;
    unsigned long long eventTypes;
    nvmlSystemEventSet_t set;
} nvmlSystemRegisterEventRequest_t;
CHECK_VERSION_WORD(nvmlSystemRegisterEventRequest_t, 1, 0x1000018);

typedef struct {
    unsigned long long eventType;
    unsigned int gpuId;
} nvmlSystemEventData_t;

typedef struct {
    unsigned int version, timeoutms;
    nvmlSystemEventSet_t set;
    nvmlSystemEventData_t *data;
    unsigned int dataSize, numEvent;
} nvmlSystemEventSetWaitRequest_t;
CHECK_VERSION_WORD(nvmlSystemEventSetWaitRequest_t, 1, 0x1000020);

typedef union {
    double dVal;
    unsigned int uiVal;
    unsigned long long ullVal;
    long long sllVal;
    int siVal;
    unsigned short usVal;
} nvmlValue_t;

typedef struct {
    uint32_t fieldId, scopeId;
    int64_t timestamp, latencyUsec;
    unsigned int valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    nvmlDevice_t device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

typedef struct {
    unsigned int metricId;
    nvmlReturn_t nvmlReturn;
    double value;
    struct {
        const char *shortName, *longName, *unit;
    } metricInfo;
} nvmlGpmMetric_t;

typedef struct {
    unsigned int version, numMetrics;
    nvmlGpmSample_t sample1, sample2;
    nvmlGpmMetric_t metrics[NVML_GPM_METRIC_MAX];
} nvmlGpmMetricsGet_t;

typedef struct {
    unsigned int version, isSupportedDevice;
} nvmlGpmSupport_t;

#endif
