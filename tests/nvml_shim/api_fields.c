/* nvmlDeviceGetFieldValues: many values in one call, each entry with its own return code. */
#include <time.h>

#include "shim.h"

enum { F64 = NVML_VALUE_TYPE_DOUBLE, U32 = NVML_VALUE_TYPE_UNSIGNED_INT, U64 = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
       I32 = NVML_VALUE_TYPE_SIGNED_INT };

/* Fields that are one key's value as it stands. Ids: NVML_FI_DEV_* in the binding. */
static const struct {
    unsigned int id, type;
    enum key key;
} PLAIN[] = {
    {1, U32, K_ecc_mode},
    {2, U32, K_ecc_mode_pending},
    {11, U64, K_ecc_dram_corrected_volatile},
    {12, U64, K_ecc_dram_uncorrected_volatile},
    {22, U64, K_ecc_dram_corrected_aggregate},
    {23, U64, K_ecc_dram_uncorrected_aggregate},
    {29, U32, K_retired_pages_sbe},
    {30, U32, K_retired_pages_dbe},
    {31, U32, K_retired_pages_pending},
    {74, U64, K_slowdown_sw_power_ns},
    {75, U64, K_slowdown_thermal_ns},
    {76, U64, K_slowdown_sync_boost_ns},
    {82, U32, K_temperature_memory_c},
    {90, U32, K_nvlink_speed_mbps},
    {94, U32, K_pcie_replay_count},
    {95, U32, K_pcie_replay_rollover_count},
    {169, U32, K_pcie_l0_to_recovery_count},
    {173, U32, K_pcie_correctable_errors},
    {174, U32, K_pcie_naks_received},
    {175, U32, K_pcie_receiver_errors},
    {176, U32, K_pcie_bad_tlps},
    {177, U32, K_pcie_naks_sent},
    {178, U32, K_pcie_bad_dllps},
    {179, U32, K_pcie_non_fatal_errors},
    {180, U32, K_pcie_fatal_errors},
    {181, U32, K_pcie_unsupported_requests},
    {182, U32, K_pcie_lcrc_errors},
    {183, U32, K_pcie_lane_errors},
    {186, U32, K_power_instant_mw},
    {187, U32, K_power_min_limit_mw},
    {188, U32, K_power_max_limit_mw},
    {189, U32, K_power_default_limit_mw},
    {190, U32, K_power_limit_mw},
    {192, U32, K_power_limit_mw},
    {193, I32, K_tlimit_shutdown_c},
    {194, I32, K_tlimit_slowdown_c},
    {195, I32, K_tlimit_memory_max_c},
    {196, I32, K_tlimit_gpu_max_c},
    {230, U32, K_recovery_action},
    {258, U32, K_power_smoothing_lifetime_pct},
    {269, U64, K_slowdown_sw_thermal_ns},
    {270, U64, K_slowdown_hw_thermal_ns},
    {271, U64, K_slowdown_hw_power_brake_ns},
    {274, U32, K_edpp_multiplier_pct},
};

/* A field's value; *type stays as it is where only the value is known. */
static nvmlReturn_t plain(const struct call *call, unsigned int id, unsigned int *type,
                          int64_t *value)
{
    for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
        if (PLAIN[i].id == id) {
            *type = PLAIN[i].type;
            return gpu_value(call, PLAIN[i].key, value);
        }
    return NVML_ERROR_NOT_SUPPORTED;
}

/* What the scenario says of a field: of any scope first, then of this one, which wins. */
static void overridden(const struct call *call, unsigned int id, unsigned int scope,
                       nvmlReturn_t *result, unsigned int *type, int64_t *value, double *real)
{
    for (int closest = 0; closest <= 1; closest++)
        for (int i = 0; i < call->gpu->fields_count; i++) {
            const struct override *said = &call->gpu->fields[i];

            if (said->id != id || (closest ? said->scope != (int)scope : said->scope != SCOPE_ANY))
                continue;
            if (said->value_set) {
                *value = said->value;
                *real = said->real;
                *result = NVML_SUCCESS;
                if (said->real_set)
                    *type = F64;
            }
            if (said->error >= 0)
                *result = said->error;
            if (said->type >= 0)
                *type = (unsigned int)said->type;
        }
}

/* Fields whose scope is an NVLink: 161 replay, 162 recovery, 163 CRC, 164 speed, 165 state,
 * 166 version, and those of the fifth NVLink, 206 to 222. nvidia-smi says of an H100 in MIG mode
 * that the links cannot be asked. */
static nvmlReturn_t of_link(const struct call *call, unsigned int id, unsigned int link,
                            int64_t *value)
{
    static const enum key KEYS[] = {K_nvlink_replay_errors, K_nvlink_recovery_errors,
                                    K_nvlink_crc_errors, K_nvlink_speed_mbps, KEY_COUNT,
                                    K_nvlink_version};
    bool active = (int64_t)link < call->gpu->value[K_nvlink_active];
    nvmlReturn_t result;

    if ((int64_t)link >= call->gpu->value[K_nvlink_count] || mig_hides(call))
        return NVML_ERROR_NOT_SUPPORTED;
    if (id >= 206)
        return gpu_value(call, (enum key)(K_nvlink5_malformed_packets + id - 206), value);
    if (id == 165) {
        *value = active;
        return NVML_SUCCESS;
    }
    result = gpu_value(call, KEYS[id - 161], value);
    if (result == NVML_SUCCESS && id == 164 && !active)
        *value = 0;
    return result;
}

/* The same for the getters, with what the scenario says of the field. */
nvmlReturn_t link_value(const struct call *call, unsigned int id, unsigned int link, int64_t *value)
{
    nvmlReturn_t result = of_link(call, id, link, value);
    unsigned int type;
    double real;

    overridden(call, id, link, &result, &type, value, &real);
    return result;
}

static nvmlReturn_t remapped(const struct call *call, unsigned int id, int64_t *value)
{
    static const enum key KEYS[] = {K_remapped_rows_corrected, K_remapped_rows_uncorrected,
                                    K_remapped_rows_pending, K_remapped_rows_failed};

    if (mig_hides(call))
        return NVML_ERROR_NOT_SUPPORTED;
    return gpu_value(call, KEYS[id - 142], value);
}

static nvmlReturn_t energy(const struct call *call, int64_t *value)
{
    nvmlReturn_t result = gpu_value(call, K_energy_mj, value);

    if (result == NVML_SUCCESS && *value == AUTO)
        *value = (int64_t)energy_mj(call->scenario, call->slot);
    return result;
}

/* Scopes of power: 0 the GPU, 1 its module, 2 its memory. */
static nvmlReturn_t average_power(const struct call *call, unsigned int scope, int64_t *value)
{
    if (scope == 1)
        return NVML_ERROR_NOT_SUPPORTED;
    return gpu_value(call, scope == 2 ? K_power_memory_mw : K_power_usage_mw, value);
}

static nvmlReturn_t inactive_rows(const struct call *call, enum key key, int64_t *value)
{
    nvmlReturn_t result = gpu_value(call, key, value);

    if (result == NVML_SUCCESS && *value == AUTO) {
        *value = 0;
        if (mig_hides(call) || driver_major(call->scenario) < 595)
            return NVML_ERROR_NOT_SUPPORTED;
    }
    return result;
}

/* Bytes since the host started, at the profile's rate. */
static int64_t pcie_bytes(const struct call *call, enum key rate_kibps)
{
    return call->gpu->value[rate_kibps] * (int64_t)(monotonic_us() / 1000000) * 1024;
}

static nvmlReturn_t value_of(const struct call *call, unsigned int id, unsigned int scope,
                             unsigned int *type, int64_t *value)
{
    const struct gpu *gpu = call->gpu;

    *type = U32;
    switch (id) {
    case 3: case 4: case 5: case 6: /* totals: corrected or not, volatile then aggregate */
        *type = U64;
        *value = ecc_total(gpu, id == 4 || id == 6, id >= 5);
        return gpu->value[K_ecc_mode] == 1 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    case 83: case 191:
        *type = U64;
        return energy(call, value);
    case 91:
        *value = gpu->value[K_nvlink_count];
        return *value > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    case 142: case 143: case 144: case 145:
        return remapped(call, id, value);
    case 161: case 162: case 163: case 206: case 207: case 208: case 209: case 210: case 211:
    case 212: case 213: case 214: case 215: case 216: case 217: case 218: case 219: case 220:
    case 221: case 222:
        *type = U64;
        return of_link(call, id, scope, value);
    case 164: case 165: case 166:
        return of_link(call, id, scope, value);
    case 185:
        return average_power(call, scope, value);
    case 197: case 198:
        *type = U64;
        *value = pcie_bytes(call, id == 197 ? K_pcie_tx_kibps : K_pcie_rx_kibps);
        return NVML_SUCCESS;
    case 301:
        return inactive_rows(call, K_remapped_rows_corrected_inactive, value);
    case 302:
        return inactive_rows(call, K_remapped_rows_uncorrected_inactive, value);
    default:
        return plain(call, id, type, value);
    }
}

static void fill(const struct call *call, nvmlFieldValue_t *entry)
{
    int64_t value = 0;
    unsigned int type = U32;
    nvmlReturn_t result = value_of(call, entry->fieldId, entry->scopeId, &type, &value);
    double real = (double)value;
    struct timespec now;

    overridden(call, entry->fieldId, entry->scopeId, &result, &type, &value, &real);
    clock_gettime(CLOCK_REALTIME, &now);
    entry->timestamp = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    entry->latencyUsec = 0;
    entry->valueType = type;
    entry->nvmlReturn = result;
    entry->value.ullVal = 0;
    if (result != NVML_SUCCESS)
        return;
    if (type == F64)
        entry->value.dVal = real;
    else if (type == U32)
        entry->value.uiVal = (unsigned int)value;
    else if (type == I32)
        entry->value.siVal = (int)value;
    else /* the other types, and those that do not exist */
        entry->value.ullVal = (unsigned long long)value;
}

NVML_API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count,
                                               nvmlFieldValue_t *values)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetFieldValues, device);

    if (result != NVML_SUCCESS)
        return result;
    if (count < 1 || !values)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++)
        fill(&call, &values[i]);
    return call_end(&call, NVML_SUCCESS);
}
