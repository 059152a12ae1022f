/* What a GPU is doing: utilisation, memory, power, energy, temperature, clocks, processes. */
#include "shim.h"

#define MIB (1ULL << 20)

ANSWER_U32(nvmlDeviceGetPowerUsage, power_usage_mw)
ANSWER_U32(nvmlDeviceGetPowerManagementLimit, power_limit_mw)
ANSWER_U32(nvmlDeviceGetEnforcedPowerLimit, power_limit_mw)
ANSWER_U32(nvmlDeviceGetPowerManagementDefaultLimit, power_default_limit_mw)
ANSWER_U32(nvmlDeviceGetFanSpeed, fan_speed_pct)
ANSWER_U32(nvmlDeviceGetPerformanceState, performance_state)
ANSWER_U32(nvmlDeviceGetPowerState, performance_state)

NVML_API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetUtilizationRates, device);
    int64_t gpu, memory;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (mig_hides(&call) || gpu_value(&call, K_utilization_gpu_pct, &gpu) ||
        gpu_value(&call, K_utilization_memory_pct, &memory))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *out = (nvmlUtilization_t){(unsigned int)gpu, (unsigned int)memory};
    return call_end(&call, NVML_SUCCESS);
}

/* One engine's utilisation [%] and the driver's sampling period [us]. */
static nvmlReturn_t engine(enum function function, nvmlDevice_t device, enum key key,
                           unsigned int *out, unsigned int *period_us)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out || !period_us)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (mig_hides(&call) || gpu_value(&call, key, &value))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *out = (unsigned int)value;
    *period_us = 100000;
    return call_end(&call, NVML_SUCCESS);
}

#define ANSWER_ENGINE(function, key)                                                     \
    NVML_API nvmlReturn_t function(nvmlDevice_t device, unsigned int *out,                \
                                   unsigned int *period_us)                               \
    {                                                                                     \
        return engine(FN_##function, device, K_##key, out, period_us);                    \
    }

ANSWER_ENGINE(nvmlDeviceGetEncoderUtilization, utilization_encoder_pct)
ANSWER_ENGINE(nvmlDeviceGetDecoderUtilization, utilization_decoder_pct)
ANSWER_ENGINE(nvmlDeviceGetJpgUtilization, utilization_jpeg_pct)
ANSWER_ENGINE(nvmlDeviceGetOfaUtilization, utilization_ofa_pct)

/* Of the GPU, or of the instance the handle stands for. */
static nvmlReturn_t memory_mib(const struct call *call, int64_t *total, int64_t *reserved,
                               int64_t *used)
{
    if (call->instance.id != INSTANCE_NONE) {
        *total = call->instance.memory_mib;
        *reserved = 0;
        *used = call->instance.used_mib;
        return NVML_SUCCESS;
    }
    *reserved = call->gpu->value[K_memory_reserved_mib];
    *used = call->gpu->value[K_memory_used_mib];
    return gpu_value(call, K_memory_total_mib, total);
}

/* The first version counts what the driver reserves as used; the second tells them apart. */
NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMemoryInfo, device);
    int64_t total, reserved, used;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = memory_mib(&call, &total, &reserved, &used);
    if (result == NVML_SUCCESS) {
        out->total = (unsigned long long)total * MIB;
        out->used = (unsigned long long)(used + reserved) * MIB;
        out->free = out->total - out->used;
    }
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMemoryInfo_v2, device);
    int64_t total, reserved, used;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 2))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    result = memory_mib(&call, &total, &reserved, &used);
    if (result == NVML_SUCCESS) {
        out->total = (unsigned long long)total * MIB;
        out->reserved = (unsigned long long)reserved * MIB;
        out->used = (unsigned long long)used * MIB;
        out->free = out->total - out->reserved - out->used;
    }
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlMemory_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetBAR1MemoryInfo, device);
    int64_t total;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_bar1_total_mib, &total);
    if (result == NVML_SUCCESS) {
        out->total = (unsigned long long)total * MIB;
        out->used = (unsigned long long)call.gpu->value[K_bar1_used_mib] * MIB;
        out->free = out->total - out->used;
    }
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetPowerManagementMode(nvmlDevice_t device, unsigned int *mode)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetPowerManagementMode, device);
    int64_t limit;

    if (result != NVML_SUCCESS)
        return result;
    if (!mode)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_power_limit_mw, &limit);
    *mode = result == NVML_SUCCESS;
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device,
                                                                   unsigned int *low,
                                                                   unsigned int *high)
{
    struct call call;
    nvmlReturn_t result =
        call_begin_gpu(&call, FN_nvmlDeviceGetPowerManagementLimitConstraints, device);
    int64_t min, max;

    if (result != NVML_SUCCESS)
        return result;
    if (!low || !high)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (gpu_value(&call, K_power_min_limit_mw, &min) ||
        gpu_value(&call, K_power_max_limit_mw, &max))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *low = (unsigned int)min;
    *high = (unsigned int)max;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device,
                                                          unsigned long long *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetTotalEnergyConsumption, device);
    int64_t fixed;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_energy_mj, &fixed);
    if (result == NVML_SUCCESS)
        *out = fixed == AUTO ? energy_mj(call.scenario, call.slot) : (unsigned long long)fixed;
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor,
                                               unsigned int *out)
{
    if (sensor != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return answer_u32(FN_nvmlDeviceGetTemperature, device, K_temperature_gpu_c, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetTemperatureV, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if (out->sensorType != 0)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    result = gpu_value(&call, K_temperature_gpu_c, &value);
    if (result == NVML_SUCCESS)
        out->temperature = (int)value;
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device,
                                                     nvmlMarginTemperature_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMarginTemperature, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    result = gpu_value(&call, K_temperature_margin_c, &value);
    if (result == NVML_SUCCESS)
        out->marginTemperature = (int)value;
    return call_end(&call, result);
}

/* The boards of these profiles have no fans of their own. */
NVML_API nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned int *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetNumFans, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    *out = call.gpu->value[K_fan_speed_pct] == N_A ? 0 : 1;
    return call_end(&call, NVML_SUCCESS);
}

/* Clock domains: 0 graphics, 1 SM, 2 memory, 3 video, in the order of the keys. */
static nvmlReturn_t clock_of(enum function function, nvmlDevice_t device, unsigned int domain,
                             enum key first, unsigned int *out)
{
    if (domain > 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    return answer_u32(function, device, (enum key)(first + domain), out);
}

NVML_API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int domain,
                                             unsigned int *out)
{
    return clock_of(FN_nvmlDeviceGetClockInfo, device, domain, K_clock_graphics_mhz, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int domain,
                                                unsigned int *out)
{
    return clock_of(FN_nvmlDeviceGetMaxClockInfo, device, domain, K_clock_max_graphics_mhz, out);
}

/* Which: 0 current, 3 the customer's boost maximum; application clocks are gone from drivers. */
NVML_API nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, unsigned int domain,
                                         unsigned int which, unsigned int *out)
{
    if (which != 0 && which != 3)
        return NVML_ERROR_NOT_SUPPORTED;
    return clock_of(FN_nvmlDeviceGetClock, device, domain,
                    which == 0 ? K_clock_graphics_mhz : K_clock_max_graphics_mhz, out);
}

NVML_API nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, unsigned int domain,
                                                         unsigned int *out)
{
    return clock_of(FN_nvmlDeviceGetMaxCustomerBoostClock, device, domain,
                    K_clock_max_graphics_mhz, out);
}

static nvmlReturn_t event_reasons(enum function function, nvmlDevice_t device, bool supported,
                                  unsigned long long *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    int64_t value = 0x1FF; /* what all the captures support */

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (!supported)
        result = gpu_value(&call, K_clocks_event_reasons, &value);
    if (result == NVML_SUCCESS)
        *out = (unsigned long long)value;
    return call_end(&call, result);
}

#define ANSWER_REASONS(function, supported)                                           \
    NVML_API nvmlReturn_t function(nvmlDevice_t device, unsigned long long *out)       \
    {                                                                                  \
        return event_reasons(FN_##function, device, supported, out);                   \
    }

ANSWER_REASONS(nvmlDeviceGetCurrentClocksEventReasons, false)
ANSWER_REASONS(nvmlDeviceGetCurrentClocksThrottleReasons, false)
ANSWER_REASONS(nvmlDeviceGetSupportedClocksEventReasons, true)
ANSWER_REASONS(nvmlDeviceGetSupportedClocksThrottleReasons, true)

/* Policies: 0 power, 1 thermal, 2 sync boost, in the order of the keys; times in ns. */
NVML_API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned int policy,
                                                   nvmlViolationTime_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetViolationStatus, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (policy > 2)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    result = gpu_value(&call, (enum key)(K_slowdown_sw_power_ns + policy), &value);
    if (result == NVML_SUCCESS)
        *out = (nvmlViolationTime_t){monotonic_us(), (unsigned long long)value};
    return call_end(&call, result);
}

/* Processes that compute, as many as the scenario says; none that draw, none of MPS. Their numbers
 * are made up. Asking with no room is asking how many: INSUFFICIENT_SIZE, unless there are none. */
static nvmlReturn_t processes(enum function function, nvmlDevice_t device, bool compute, bool old,
                              unsigned int *count, void *list)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    unsigned int room, running;
    int64_t value = 0;

    if (result != NVML_SUCCESS)
        return result;
    if (!count)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (compute && gpu_value(&call, K_compute_processes, &value))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    running = (unsigned int)value;
    room = *count;
    *count = running;
    if (running > room || (running && !list))
        return call_end(&call, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned int i = 0; i < running; i++)
        if (old)
            ((nvmlProcessInfo_v1_t *)list)[i] = (nvmlProcessInfo_v1_t){1000 + i, MIB};
        else
            ((nvmlProcessInfo_t *)list)[i] =
                (nvmlProcessInfo_t){1000 + i, MIB, NVML_INSTANCE_NONE, NVML_INSTANCE_NONE};
    return call_end(&call, NVML_SUCCESS);
}

#define ANSWER_PROCESSES(function, compute, old)                                            \
    NVML_API nvmlReturn_t function(nvmlDevice_t device, unsigned int *count, void *list)     \
    {                                                                                        \
        return processes(FN_##function, device, compute, old, count, list);                  \
    }

ANSWER_PROCESSES(nvmlDeviceGetComputeRunningProcesses, true, true)
ANSWER_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, true, false)
ANSWER_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, true, false)
ANSWER_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, false, true)
ANSWER_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, false, false)
ANSWER_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, false, false)
ANSWER_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, false, true)
ANSWER_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, false, false)
ANSWER_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, false, false)
