/* What the shim's parts know of each other: the scenario, and one call's way through the driver. */
#ifndef ASSAY_SHIM_H
#define ASSAY_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvml_abi.h"

#define NVML_API __attribute__((visibility("default")))
#define GPUS_MAX 16
#define TEXT_MAX 96
#define FIELDS_MAX 64
#define EVENTS_MAX 64
#define INSTANCES_MAX 16
#define SLOT_HOST (-1)
#define SCOPE_ANY (-1)
#define INSTANCE_NONE (-1)

/* A numeric key's two values that are not numbers. */
#define N_A INT64_MIN
#define AUTO (INT64_MIN + 1)

enum function {
#define FUNCTION(name) FN_##name,
#include "functions.def"
#undef FUNCTION
    FN_COUNT,
    FN_ALL = FN_COUNT /* the scenario's "*" */
};

enum key {
#define KEY(name, value) K_##name,
#include "keys.def"
#undef KEY
    KEY_COUNT
};

enum text {
    T_name,
    T_uuid,
    T_serial,
    T_board_part_number,
    T_vbios_version,
    T_inforom_image_version,
    T_inforom_oem_version,
    T_inforom_ecc_version,
    T_pci_bus_id,
    T_chassis_serial,
    T_fabric_cluster_uuid,
    T_mig_instances,
    TEXT_COUNT
};

/* What the scenario does to calls; -1 means it says nothing. The last slot is "*". */
struct rules {
    int error[FN_COUNT + 1];
    int delay_ms[FN_COUNT + 1];
    int hang[FN_COUNT + 1];
};

/* What the scenario says of one field id or metric, of one scope (a link, an instance) or of any. */
struct override {
    unsigned int id;
    int scope;
    bool value_set, real_set; /* real_set: the value is the double, as NVML_VALUE_TYPE_DOUBLE */
    int64_t value;
    double real;
    nvmlReturn_t error; /* -1: not said */
    int type;           /* NVML_VALUE_TYPE_*, or any number; -1: not said */
};

/* One GPU instance of the MIG mode, with the one compute instance that the captures show in it. */
struct instance {
    int id;
    int64_t memory_mib, used_mib;
    unsigned int multiprocessors;
};

struct event {
    uint64_t sequence, type, data;
};

/* A GPU's settings: either what one section of the scenario says, or all of them put together. */
struct gpu {
    int line; /* of the section that first named it; 0 when none did */
    int profile, load, present, lost, layout; /* -1: not said */
    int64_t value[KEY_COUNT];
    bool value_set[KEY_COUNT];
    char text[TEXT_COUNT][TEXT_MAX];
    bool text_set[TEXT_COUNT];
    struct rules rules;
    struct override fields[FIELDS_MAX], metrics[FIELDS_MAX];
    int fields_count, metrics_count;
    struct event events[EVENTS_MAX];
    int events_count;
    struct instance instances[INSTANCES_MAX];
    int instances_count;
};

struct host {
    int gpus;
    char driver_version[TEXT_MAX], nvml_version[TEXT_MAX];
    int64_t cuda_driver_version, driver_generation, driver_loaded;
    int64_t identity_seed, init_error, init_failures;
    int64_t cc_environment, cc_feature, cc_devtools, cc_multi_gpu, cc_ready;
    int64_t device_count; /* -1: those that are present */
    struct rules rules;
    struct event events[EVENTS_MAX]; /* of the system: bind and unbind */
    int events_count;
};

struct scenario {
    struct host host;
    struct gpu gpu[GPUS_MAX];
};

enum { LOAD_IDLE = 0, LOAD_LOADED = 1 };
enum { LAYOUT_HEADER = 0, LAYOUT_BINDING = 1 };

/* profiles.c */
int profile_find(const char *name);
void profile_apply(struct gpu *gpu, int profile, int load);

/* scenario.c: NULL, with file:line said on stderr, when any line is wrong */
struct scenario *scenario_parse(const char *text, size_t length, const char *file);
void gpu_merge(struct gpu *into, const struct gpu *from);
const char *function_name(enum function function);

/* driver.c: a call begins by passing the scenario's gates, and holds the driver's lock until it
 * ends. When a begin answers anything but NVML_SUCCESS the call is over. */
struct call {
    enum function function;
    int slot;
    const struct scenario *scenario;
    const struct gpu *gpu;
    struct instance instance; /* id INSTANCE_NONE: the call is about the GPU or the host */
};

typedef nvmlReturn_t (*finder)(const struct scenario *scenario, const void *what, int *slot);

nvmlReturn_t call_begin(struct call *call, enum function function, finder find, const void *what);
nvmlReturn_t call_begin_gpu(struct call *call, enum function function, nvmlDevice_t device);
nvmlReturn_t call_begin_host(struct call *call, enum function function);
nvmlReturn_t call_end(const struct call *call, nvmlReturn_t result);

nvmlReturn_t driver_init(enum function function);
nvmlReturn_t driver_shutdown(void);
uint64_t driver_session(void);
void driver_refresh(void);
const struct scenario *driver_scenario(void); /* NULL while the scenario is wrong */
void driver_lock(void);
void driver_unlock(void);
void driver_log(enum function function, int slot, const char *outcome);
void sleep_ms(unsigned int ms);
uint64_t monotonic_us(void);

nvmlReturn_t find_handle(const struct scenario *scenario, const void *what, int *slot);
nvmlDevice_t handle_of(const struct scenario *scenario, int slot, int instance);
int index_of(const struct scenario *scenario, int slot);
int slot_at(const struct scenario *scenario, unsigned int index);
int driver_major(const struct scenario *scenario);

/* api_mig.c */
bool mig_instance(const struct gpu *gpu, int id, struct instance *instance);
bool mig_admits(enum function function);

/* energy.c */
void energy_open(const char *scenario_path);
void energy_reconcile(const struct scenario *scenario);
uint64_t energy_mj(const struct scenario *scenario, int slot);

/* api_use.c: shared by several calls and by the field values */
nvmlReturn_t gpu_value(const struct call *call, enum key key, int64_t *value);
nvmlReturn_t answer_u32(enum function function, nvmlDevice_t device, enum key key,
                        unsigned int *out);
nvmlReturn_t answer_text(enum function function, nvmlDevice_t device, enum text text, char *out,
                         unsigned int length);
nvmlReturn_t copy_text(const char *text, char *out, unsigned int length);
bool mig_hides(const struct call *call);
int64_t ecc_total(const struct gpu *gpu, bool uncorrected, bool aggregate);
nvmlReturn_t link_value(const struct call *call, unsigned int id, unsigned int link, int64_t *value);

/* A call that answers one unsigned number as it stands. */
#define ANSWER_U32(function, key)                                                    \
    NVML_API nvmlReturn_t function(nvmlDevice_t device, unsigned int *out)            \
    {                                                                                 \
        return answer_u32(FN_##function, device, K_##key, out);                       \
    }
#define ANSWER_TEXT(function, text)                                                   \
    NVML_API nvmlReturn_t function(nvmlDevice_t device, char *out, unsigned int length) \
    {                                                                                 \
        return answer_text(FN_##function, device, T_##text, out, length);             \
    }

#endif
