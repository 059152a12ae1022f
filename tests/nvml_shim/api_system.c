/* The library itself, the host, and the ways to a GPU's handle. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "shim.h"

NVML_API nvmlReturn_t nvmlInit(void)
{
    return driver_init(FN_nvmlInit);
}

NVML_API nvmlReturn_t nvmlInit_v2(void)
{
    return driver_init(FN_nvmlInit_v2);
}

NVML_API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags; /* no_gpus and no_attach change nothing here */
    return driver_init(FN_nvmlInitWithFlags);
}

NVML_API nvmlReturn_t nvmlShutdown(void)
{
    return driver_shutdown();
}

/* As NVIDIA's library of 550 says it. */
NVML_API const char *nvmlErrorString(nvmlReturn_t code)
{
    static const char *const TEXT[] = {
        "Success",
        "Uninitialized",
        "Invalid Argument",
        "Not Supported",
        "Insufficient Permissions",
        "Already Initialized",
        "Not Found",
        "Insufficient Size",
        "Insufficient External Power",
        "Driver Not Loaded",
        "Timeout",
        "Interrupt Request Issue",
        "NVML Shared Library Not Found",
        "Function Not Found",
        "Corrupted infoROM",
        "GPU is lost",
        "GPU requires reset",
        "GPU access blocked by the operating system",
        "Driver/library version mismatch",
        "In use by another client",
        "Insufficient Memory",
        "No data",
        "vGPU ECC not supported",
        "Insufficient Resources",
        "Invalid Frequency",
        "Argument version mismatch",
        "Requested functionality has been deprecated",
        "System is not in ready state",
        "No supported GPUs were found",
        "Resource not in correct state to perform requested operation",
    };

    if (code >= 0 && code < (int)(sizeof TEXT / sizeof *TEXT))
        return TEXT[code];
    return "Unknown Error";
}

NVML_API nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetDriverVersion);

    if (result != NVML_SUCCESS)
        return result;
    return call_end(&call, copy_text(call.scenario->host.driver_version, out, length));
}

NVML_API nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetNVMLVersion);

    if (result != NVML_SUCCESS)
        return result;
    return call_end(&call, copy_text(call.scenario->host.nvml_version, out, length));
}

NVML_API nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *out,
                                                unsigned int length)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetDriverBranch);
    char branch[16];

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    snprintf(branch, sizeof branch, "r%d_00", driver_major(call.scenario));
    return call_end(&call, copy_text(branch, out->branch, length));
}

static nvmlReturn_t cuda_version(enum function function, int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, function);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = (int)call.scenario->host.cuda_driver_version;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *out)
{
    return cuda_version(FN_nvmlSystemGetCudaDriverVersion, out);
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    return cuda_version(FN_nvmlSystemGetCudaDriverVersion_v2, out);
}

NVML_API nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetConfComputeState);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    out->environment = (unsigned int)call.scenario->host.cc_environment;
    out->ccFeature = (unsigned int)call.scenario->host.cc_feature;
    out->devToolsMode = (unsigned int)call.scenario->host.cc_devtools;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlSystemGetConfComputeSettings(nvmlConfComputeSettings_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetConfComputeSettings);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    out->environment = (unsigned int)call.scenario->host.cc_environment;
    out->ccFeature = (unsigned int)call.scenario->host.cc_feature;
    out->devToolsMode = (unsigned int)call.scenario->host.cc_devtools;
    out->multiGpuMode = (unsigned int)call.scenario->host.cc_multi_gpu;
    return call_end(&call, NVML_SUCCESS);
}

/* Capable only where confidential computing is on: whether the processor could is not known. */
NVML_API nvmlReturn_t nvmlSystemGetConfComputeCapabilities(nvmlConfComputeCaps_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetConfComputeCapabilities);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = (nvmlConfComputeCaps_t){0, (unsigned int)call.scenario->host.cc_feature};
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemGetConfComputeGpusReadyState);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = (unsigned int)call.scenario->host.cc_ready;
    return call_end(&call, NVML_SUCCESS);
}

/* Counts what this host has none of: S-class units, and GPUs excluded by a driver option. */
static nvmlReturn_t none(enum function function, unsigned int *count)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, function);

    if (result != NVML_SUCCESS)
        return result;
    if (!count)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlUnitGetCount(unsigned int *count)
{
    return none(FN_nvmlUnitGetCount, count);
}

NVML_API nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *count)
{
    return none(FN_nvmlGetExcludedDeviceCount, count);
}

static nvmlReturn_t device_count(enum function function, unsigned int *count)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, function);

    if (result != NVML_SUCCESS)
        return result;
    if (!count)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *count = call.scenario->host.device_count >= 0
                 ? (unsigned int)call.scenario->host.device_count
                 : (unsigned int)index_of(call.scenario, call.scenario->host.gpus);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return device_count(FN_nvmlDeviceGetCount, count);
}

NVML_API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    return device_count(FN_nvmlDeviceGetCount_v2, count);
}

static nvmlReturn_t find_index(const struct scenario *scenario, const void *what, int *slot)
{
    *slot = slot_at(scenario, *(const unsigned int *)what);
    return *slot < 0 ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

static nvmlReturn_t find_text(const struct scenario *scenario, enum text text, const char *what,
                              int *slot)
{
    for (int i = 0; i < scenario->host.gpus; i++)
        if (scenario->gpu[i].present && strcmp(scenario->gpu[i].text[text], what) == 0) {
            *slot = i;
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

static nvmlReturn_t find_uuid(const struct scenario *scenario, const void *what, int *slot)
{
    return find_text(scenario, T_uuid, what, slot);
}

static nvmlReturn_t find_serial(const struct scenario *scenario, const void *what, int *slot)
{
    return find_text(scenario, T_serial, what, slot);
}

/* By number, not by spelling: "0:1b:0.0" and "00000000:1B:00.0" are one place. */
static nvmlReturn_t find_bus(const struct scenario *scenario, const void *what, int *slot)
{
    unsigned int asked[4], has[4];

    if (sscanf(what, "%x:%x:%x.%x", &asked[0], &asked[1], &asked[2], &asked[3]) != 4)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < scenario->host.gpus; i++) {
        sscanf(scenario->gpu[i].text[T_pci_bus_id], "%x:%x:%x.%x", &has[0], &has[1], &has[2],
               &has[3]);
        if (scenario->gpu[i].present && memcmp(asked, has, sizeof has) == 0) {
            *slot = i;
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

static nvmlReturn_t handle_by(enum function function, finder find, const void *what,
                              nvmlDevice_t *device)
{
    struct call call;
    nvmlReturn_t result = call_begin(&call, function, find, what);

    if (result != NVML_SUCCESS)
        return result;
    if (!device)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *device = handle_of(call.scenario, call.slot, INSTANCE_NONE);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleByIndex, find_index, &index, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleByIndex_v2, find_index, &index, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleByUUID, find_uuid, uuid, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
    const unsigned char *b;
    char text[48];

    if (!uuid)
        return handle_by(FN_nvmlDeviceGetHandleByUUIDV, find_uuid, NULL, device);
    if (uuid->version != VERSION_WORD(*uuid, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    b = uuid->value.bytes;
    if (uuid->type == 1)
        snprintf(text, sizeof text, "%.41s", uuid->value.str);
    else if (uuid->type == 2)
        snprintf(text, sizeof text,
                 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
                 b[14], b[15]);
    else
        return NVML_ERROR_INVALID_ARGUMENT;
    return handle_by(FN_nvmlDeviceGetHandleByUUIDV, find_uuid, text, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleBySerial, find_serial, serial, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleByPciBusId, find_bus, bus, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device)
{
    return handle_by(FN_nvmlDeviceGetHandleByPciBusId_v2, find_bus, bus, device);
}
