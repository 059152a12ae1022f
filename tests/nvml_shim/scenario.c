/* Reads a scenario: lines "key = value" in the sections [host], [gpu *] and [gpu N].
 *
 * A line that cannot be understood is refused with its file and number: a test whose fault was
 * silently not injected would pass for the wrong reason. README.md lists the keys.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum section { SECTION_NONE, SECTION_HOST, SECTION_EVERY, SECTION_ONE };

struct reader {
    const char *file;
    int line;
    enum section section;
    struct scenario *scenario;
    struct gpu every;
    struct gpu *gpu; /* the section being read, when it is a GPU's */
    bool host_seen, failed;
    char keys_seen[256][64];
    int keys_count;
};

static const char *const FUNCTION_NAMES[] = {
#define FUNCTION(name) #name,
#include "functions.def"
#undef FUNCTION
    "*",
};

static const char *const KEY_NAMES[] = {
#define KEY(name, value) #name,
#include "keys.def"
#undef KEY
};

static const int64_t KEY_DEFAULTS[] = {
#define KEY(name, value) value,
#include "keys.def"
#undef KEY
};

static const char *const TEXT_NAMES[TEXT_COUNT] = {
    [T_name] = "name",
    [T_uuid] = "uuid",
    [T_serial] = "serial",
    [T_board_part_number] = "board_part_number",
    [T_vbios_version] = "vbios_version",
    [T_inforom_image_version] = "inforom_image_version",
    [T_inforom_oem_version] = "inforom_oem_version",
    [T_inforom_ecc_version] = "inforom_ecc_version",
    [T_pci_bus_id] = "pci_bus_id",
    [T_chassis_serial] = "chassis_serial",
    [T_fabric_cluster_uuid] = "fabric_cluster_uuid",
    [T_mig_instances] = "mig_instances",
};

/* Bus numbers as an eight-way HGX board of this generation commonly shows them; judgement. */
static const unsigned char BUS_NUMBERS[GPUS_MAX] = {0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3,
                                                    0xD1, 0xDF, 0x1C, 0x44, 0x53, 0x62,
                                                    0x9E, 0xC4, 0xD2, 0xE0};

const char *function_name(enum function function)
{
    return FUNCTION_NAMES[function];
}

__attribute__((format(printf, 2, 3))) static void refuse(struct reader *reader,
                                                         const char *format, ...)
{
    va_list arguments;

    reader->failed = true;
    fprintf(stderr, "libnvidia-ml test shim: %s:%d: ", reader->file, reader->line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void rules_clear(struct rules *rules)
{
    for (int i = 0; i <= FN_COUNT; i++)
        rules->error[i] = rules->delay_ms[i] = rules->hang[i] = -1;
}

static void gpu_clear(struct gpu *gpu)
{
    memset(gpu, 0, sizeof *gpu);
    gpu->profile = gpu->load = gpu->present = gpu->lost = gpu->layout = -1;
    memcpy(gpu->value, KEY_DEFAULTS, sizeof gpu->value);
    rules_clear(&gpu->rules);
}

/* Numbers: decimal or 0x; negative only where a temperature can be. */
static bool read_number(struct reader *reader, const char *key, const char *text, int64_t low,
                        int64_t high, int64_t *value)
{
    char *end;

    errno = 0;
    if (text[0] == '-')
        *value = strtoll(text, &end, 0);
    else
        *value = (int64_t)strtoull(text, &end, 0);
    if (errno || end == text || *end) {
        refuse(reader, "%s: '%s' is not a number", key, text);
        return false;
    }
    if (*value < low || *value > high) {
        refuse(reader, "%s: %s is outside %lld to %lld", key, text, (long long)low,
               (long long)high);
        return false;
    }
    return true;
}

static bool read_flag(struct reader *reader, const char *key, const char *text, int *value)
{
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        *value = text[0] == 't';
        return true;
    }
    refuse(reader, "%s: '%s' is neither true nor false", key, text);
    return false;
}

static bool read_code(struct reader *reader, const char *key, const char *text, int *code)
{
    int64_t value;

    if (!read_number(reader, key, text, 0, NVML_ERROR_UNKNOWN, &value))
        return false;
    if (value > NVML_ERROR_LAST && value != NVML_ERROR_UNKNOWN) {
        refuse(reader, "%s: %s is not an NVML return code", key, text);
        return false;
    }
    *code = (int)value;
    return true;
}

/* error.F, delay_ms.F and hang.F; true when the key was one of these, well-formed or not. */
static bool set_rule(struct reader *reader, struct rules *rules, const char *key,
                     const char *text)
{
    const char *dot = strchr(key, '.');
    int64_t delay_ms;
    int function = 0;

    if (!dot || (strncmp(key, "error.", 6) && strncmp(key, "delay_ms.", 9) &&
                 strncmp(key, "hang.", 5)))
        return false;
    while (function <= FN_COUNT && strcmp(FUNCTION_NAMES[function], dot + 1))
        function++;
    if (function > FN_COUNT)
        refuse(reader, "%s: the shim has no function '%s'", key, dot + 1);
    else if (key[0] == 'e')
        read_code(reader, key, text, &rules->error[function]);
    else if (key[0] == 'h')
        read_flag(reader, key, text, &rules->hang[function]);
    else if (read_number(reader, key, text, 0, 600000, &delay_ms))
        rules->delay_ms[function] = (int)delay_ms;
    return true;
}

/* The entry for one id and scope in a section's list; made where there is none yet. */
static struct override *override_for(struct reader *reader, struct override *list, int *count,
                                     unsigned int id, int scope)
{
    for (int i = 0; i < *count; i++)
        if (list[i].id == id && list[i].scope == scope)
            return &list[i];
    if (*count == FIELDS_MAX) {
        refuse(reader, "more than %d of these in one section", FIELDS_MAX);
        return NULL;
    }
    list[*count] = (struct override){.id = id, .scope = scope, .error = -1, .type = -1};
    return &list[(*count)++];
}

/* A whole number stays one; "nan", "-inf" and fractions are doubles. */
static void set_override_value(struct reader *reader, const char *key, const char *text,
                               struct override *one)
{
    char *end;

    one->real = strtod(text, &end);
    one->real_set = end != text && *end == '\0' && strpbrk(text, ".enN") && !strpbrk(text, "xX");
    one->value_set = one->real_set ||
                     read_number(reader, key, text, AUTO + 1, INT64_MAX, &one->value);
    if (!one->real_set)
        one->real = (double)one->value;
}

/* field, field_error, field_type and metric, each .ID or .ID.SCOPE; true when the key was one. */
static bool set_override(struct reader *reader, const char *key, const char *text)
{
    struct gpu *gpu = reader->gpu;
    char kind[16], rest;
    unsigned int id;
    int scope = SCOPE_ANY, parts = sscanf(key, "%15[a-z_].%u.%d%c", kind, &id, &scope, &rest);
    bool metric = strncmp(key, "metric.", 7) == 0;
    struct override *one;
    int64_t type;

    if (!metric && strncmp(key, "field.", 6) && strncmp(key, "field_error.", 12) &&
        strncmp(key, "field_type.", 11))
        return false;
    if (parts < 2 || parts > 3 || id < 1 || id > 511 || (parts == 3 && scope < 0) ||
        (parts == 2 && strchr(strchr(key, '.') + 1, '.'))) {
        refuse(reader, "%s: not KIND.ID or KIND.ID.SCOPE with an ID of 1 to 511", key);
        return true;
    }
    one = metric ? override_for(reader, gpu->metrics, &gpu->metrics_count, id, scope)
                 : override_for(reader, gpu->fields, &gpu->fields_count, id, scope);
    if (!one)
        return true;
    if (strcmp(kind, "field_error") == 0)
        read_code(reader, key, text, &one->error);
    else if (strcmp(kind, "field_type") == 0 && read_number(reader, key, text, 0, INT32_MAX, &type))
        one->type = (int)type;
    else if (metric && strcmp(text, "unsupported") == 0)
        one->error = NVML_ERROR_NOT_SUPPORTED;
    else if (strcmp(kind, "field_type"))
        set_override_value(reader, key, text, one);
    return true;
}

/* "xid = SEQUENCE:CODE"; "event" and "system_event" = SEQUENCE:TYPE:DATA. */
static void add_event(struct reader *reader, struct event *events, int *count, const char *key,
                      const char *text)
{
    unsigned long long sequence, type = NVML_EVENT_XID, data;
    char rest;
    bool xid = strcmp(key, "xid") == 0;

    if (xid ? sscanf(text, "%llu:%llu%c", &sequence, &data, &rest) != 2
            : sscanf(text, "%llu:%lli:%lli%c", &sequence, (long long *)&type, (long long *)&data,
                     &rest) != 3) {
        refuse(reader, "%s: '%s' is not %s", key, text,
               xid ? "SEQUENCE:CODE" : "SEQUENCE:TYPE:DATA");
        return;
    }
    if (*count == EVENTS_MAX) {
        refuse(reader, "more than %d events in one section", EVENTS_MAX);
        return;
    }
    if (*count && events[*count - 1].sequence >= sequence) {
        refuse(reader, "%s: sequence numbers must rise within a section", key);
        return;
    }
    events[(*count)++] = (struct event){sequence, type, data};
}

/* A text as it stands, but for \xNN, which is that byte: texts need not be UTF-8. */
static void set_text(struct reader *reader, const char *key, const char *text, char *out)
{
    unsigned int byte;

    for (; *text; out++)
        if (text[0] == '\\' && text[1] == 'x' && isxdigit((unsigned char)text[2]) &&
            isxdigit((unsigned char)text[3]) && sscanf(text + 2, "%2x", &byte) == 1 && byte) {
            *out = (char)byte;
            text += 4;
        } else if (*text == '\\') {
            refuse(reader, "%s: a backslash begins \\xNN, and not \\x00", key);
            break;
        } else {
            *out = *text++;
        }
    *out = '\0';
}

/* "ID:MEMORY_MIB:MULTIPROCESSORS" or with ":USED_MIB", separated by spaces. */
static void set_instances(struct reader *reader, struct gpu *gpu, const char *text)
{
    int length;

    gpu->instances_count = 0;
    for (; *text; text += length) {
        struct instance *one = &gpu->instances[gpu->instances_count];
        long long memory_mib, used_mib = 0;
        char end = ' ';

        length = 0;
        if (gpu->instances_count == INSTANCES_MAX ||
            sscanf(text, "%d:%lld:%u%n", &one->id, &memory_mib, &one->multiprocessors,
                   &length) != 3 || one->id < 0 || memory_mib < 0) {
            refuse(reader, "mig_instances: '%s' is not ID:MEMORY_MIB:MULTIPROCESSORS[:USED_MIB] "
                           "(at most %d)", text, INSTANCES_MAX);
            return;
        }
        text += length;
        if (sscanf(text, ":%lld%n", &used_mib, &length) == 1)
            text += length;
        length = 0;
        if (*text && (sscanf(text, "%c%n", &end, &length) != 1 || end != ' ')) {
            refuse(reader, "mig_instances: '%s' follows an instance", text);
            return;
        }
        one->memory_mib = memory_mib;
        one->used_mib = used_mib;
        gpu->instances_count++;
    }
}

/* Numbers the shim adds up, which must therefore be there. */
static bool summed(enum key number)
{
    return (number >= K_ecc_dram_corrected_volatile && number <= K_ecc_sram_source_other) ||
           number == K_memory_reserved_mib || number == K_memory_used_mib ||
           number == K_bar1_used_mib || number == K_pcie_tx_kibps ||
           number == K_pcie_rx_kibps || number == K_nvlink_count || number == K_resets ||
           number == K_nvlink_tx_mibps || number == K_nvlink_rx_mibps;
}

static void set_gpu_number(struct reader *reader, enum key number, const char *text)
{
    const char *key = KEY_NAMES[number];
    size_t length = strlen(key);
    bool negative = length > 2 && strcmp(key + length - 2, "_c") == 0;
    int64_t value;

    if (strcmp(text, "unsupported") == 0 && summed(number)) {
        refuse(reader, "%s is part of a sum: use error.FUNCTION instead of 'unsupported'", key);
        return;
    }
    if (strcmp(text, "unsupported") == 0)
        value = N_A;
    else if (!read_number(reader, key, text, number == K_pdi ? INT64_MIN : negative ? -300 : 0,
                          INT64_MAX, &value)) /* all 64 bits of a PDI are the identifier's */
        return;
    reader->gpu->value[number] = value;
    reader->gpu->value_set[number] = true;
}

static void set_gpu(struct reader *reader, const char *key, const char *text)
{
    struct gpu *gpu = reader->gpu;

    if (set_rule(reader, &gpu->rules, key, text) || set_override(reader, key, text))
        return;
    for (int i = 0; i < KEY_COUNT; i++)
        if (strcmp(key, KEY_NAMES[i]) == 0) {
            set_gpu_number(reader, i, text);
            return;
        }
    for (int i = 0; i < TEXT_COUNT; i++)
        if (strcmp(key, TEXT_NAMES[i]) == 0) {
            set_text(reader, key, strcmp(text, "unsupported") ? text : "", gpu->text[i]);
            gpu->text_set[i] = true;
            return;
        }
    if (strcmp(key, "profile") == 0) {
        if ((gpu->profile = profile_find(text)) < 0)
            refuse(reader, "profile: no profile is called '%s'", text);
    } else if (strcmp(key, "load") == 0) {
        gpu->load = strcmp(text, "loaded") == 0 ? LOAD_LOADED : LOAD_IDLE;
        if (strcmp(text, "loaded") && strcmp(text, "idle"))
            refuse(reader, "load: '%s' is neither idle nor loaded", text);
    } else if (strcmp(key, "unrepairable_memory_layout") == 0) {
        gpu->layout = strcmp(text, "binding") == 0 ? LAYOUT_BINDING : LAYOUT_HEADER;
        if (strcmp(text, "binding") && strcmp(text, "header"))
            refuse(reader, "%s: '%s' is neither header nor binding", key, text);
    } else if (strcmp(key, "present") == 0) {
        read_flag(reader, key, text, &gpu->present);
    } else if (strcmp(key, "lost") == 0) {
        read_flag(reader, key, text, &gpu->lost);
    } else if (strcmp(key, "xid") == 0 || strcmp(key, "event") == 0) {
        if (gpu == &reader->every)
            refuse(reader, "%s: an event belongs to one GPU", key);
        else
            add_event(reader, gpu->events, &gpu->events_count, key, text);
    } else {
        refuse(reader, "unknown key '%s' in a [gpu] section", key);
    }
}

static void set_host(struct reader *reader, const char *key, const char *text)
{
    struct host *host = &reader->scenario->host;
    const struct {
        const char *key;
        int64_t *value, high;
    } numbers[] = {
        {"cuda_driver_version", &host->cuda_driver_version, INT32_MAX},
        {"driver_generation", &host->driver_generation, INT32_MAX},
        {"identity_seed", &host->identity_seed, INT32_MAX},
        {"init_error", &host->init_error, NVML_ERROR_UNKNOWN},
        {"init_failures", &host->init_failures, INT32_MAX},
        {"cc_environment", &host->cc_environment, UINT32_MAX},
        {"cc_feature", &host->cc_feature, UINT32_MAX},
        {"cc_devtools", &host->cc_devtools, UINT32_MAX},
        {"cc_multi_gpu", &host->cc_multi_gpu, UINT32_MAX},
        {"cc_ready", &host->cc_ready, UINT32_MAX},
        {"device_count", &host->device_count, UINT32_MAX},
    };
    int64_t gpus;
    int flag;

    if (set_rule(reader, &host->rules, key, text))
        return;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(key, numbers[i].key) == 0) {
            read_number(reader, key, text, 0, numbers[i].high, numbers[i].value);
            return;
        }
    if (strcmp(key, "gpus") == 0) {
        if (read_number(reader, key, text, 0, GPUS_MAX, &gpus))
            host->gpus = (int)gpus;
    } else if (strcmp(key, "driver_loaded") == 0) {
        if (read_flag(reader, key, text, &flag))
            host->driver_loaded = flag;
    } else if (strcmp(key, "driver_version") == 0) {
        set_text(reader, key, text, host->driver_version);
    } else if (strcmp(key, "nvml_version") == 0) {
        set_text(reader, key, text, host->nvml_version);
    } else if (strcmp(key, "system_event") == 0) {
        add_event(reader, host->events, &host->events_count, key, text);
    } else {
        refuse(reader, "unknown key '%s' in [host]", key);
    }
}

static void open_section(struct reader *reader, const char *name)
{
    char rest;
    int slot;

    reader->keys_count = 0;
    reader->section = SECTION_NONE;
    if (strcmp(name, "[host]") == 0) {
        if (reader->host_seen)
            refuse(reader, "[host] again");
        reader->host_seen = true;
        reader->section = SECTION_HOST;
        return;
    }
    if (strcmp(name, "[gpu *]") == 0) {
        reader->gpu = &reader->every;
        reader->section = SECTION_EVERY;
    } else if (sscanf(name, "[gpu %d]%c", &slot, &rest) == 1 && name[strlen(name) - 1] == ']' &&
               slot >= 0 && slot < GPUS_MAX) {
        reader->gpu = &reader->scenario->gpu[slot];
        reader->section = SECTION_ONE;
    } else {
        refuse(reader, "no such section: %s", name);
        return;
    }
    if (reader->gpu->line)
        refuse(reader, "%s again; it is already on line %d", name, reader->gpu->line);
    reader->gpu->line = reader->line;
}

/* A key twice in one section is a mistake, except for events, which are a list. */
static bool seen_before(struct reader *reader, const char *key)
{
    if (strcmp(key, "xid") == 0 || strcmp(key, "event") == 0 || strcmp(key, "system_event") == 0)
        return false;
    for (int i = 0; i < reader->keys_count; i++)
        if (strcmp(reader->keys_seen[i], key) == 0)
            return true;
    if (reader->keys_count < 256)
        snprintf(reader->keys_seen[reader->keys_count++], sizeof *reader->keys_seen, "%s", key);
    return false;
}

static char *trim(char *text)
{
    char *end;

    while (isspace((unsigned char)*text))
        text++;
    for (end = text + strlen(text); end > text && isspace((unsigned char)end[-1]); end--)
        ;
    *end = '\0';
    return text;
}

static void read_line(struct reader *reader, char *line)
{
    char *text = trim(line), *equals, *key, *value;

    if (*text == '\0' || *text == '#' || *text == ';')
        return;
    if (*text == '[') {
        open_section(reader, text);
        return;
    }
    equals = strchr(text, '=');
    if (!equals) {
        refuse(reader, "'%s' is neither a section nor 'key = value'", text);
        return;
    }
    *equals = '\0';
    key = trim(text);
    value = trim(equals + 1);
    if (strlen(key) >= sizeof *reader->keys_seen || strlen(value) >= TEXT_MAX)
        refuse(reader, "'%s': key or value too long", key);
    else if (*value == '\0')
        refuse(reader, "%s: no value", key);
    else if (reader->section == SECTION_NONE)
        refuse(reader, "'%s' stands outside a section", key);
    else if (seen_before(reader, key))
        refuse(reader, "'%s' again in this section", key);
    else if (reader->section == SECTION_HOST)
        set_host(reader, key, value);
    else
        set_gpu(reader, key, value);
}

/* 64 well-mixed bits out of a small number (splitmix64), so that identities look like identities
 * and are the same in every process and on every machine. */
static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

/* What the captures mask, made up: GPU n of a seed is the same GPU everywhere. */
static void invent_identity(struct gpu *gpu, int slot, uint64_t seed)
{
    uint64_t base = mix(seed * GPUS_MAX + (uint64_t)slot), more = mix(base);

    if (!gpu->text_set[T_uuid])
        snprintf(gpu->text[T_uuid], TEXT_MAX, "GPU-%08x-%04x-4%03x-%04x-%012llx",
                 (unsigned int)(base >> 32), (unsigned int)(base >> 16) & 0xFFFF,
                 (unsigned int)base & 0xFFF, 0x8000 | ((unsigned int)(more >> 48) & 0x3FFF),
                 (unsigned long long)(more & 0xFFFFFFFFFFFF));
    if (!gpu->text_set[T_serial]) /* thirteen digits, as on the masked originals */
        snprintf(gpu->text[T_serial], TEXT_MAX, "165%010llu",
                 (unsigned long long)(mix(base ^ 1) % 10000000000ULL));
    if (!gpu->text_set[T_pci_bus_id])
        snprintf(gpu->text[T_pci_bus_id], TEXT_MAX, "00000000:%02X:00.0", BUS_NUMBERS[slot]);
    if (gpu->value[K_pdi] == AUTO)
        gpu->value[K_pdi] = (int64_t)(mix(base ^ 2) | 1); /* never N_A or AUTO by chance */
    if (gpu->value[K_inforom_checksum] == AUTO)
        gpu->value[K_inforom_checksum] = mix(base ^ 3) & 0xFFFFFFFF;
}

void gpu_merge(struct gpu *into, const struct gpu *from)
{
    int *dst[] = {into->rules.error, into->rules.delay_ms, into->rules.hang};
    const int *src[] = {from->rules.error, from->rules.delay_ms, from->rules.hang};

    for (int i = 0; i < KEY_COUNT; i++)
        if (from->value_set[i]) {
            into->value[i] = from->value[i];
            into->value_set[i] = true;
        }
    for (int i = 0; i < TEXT_COUNT; i++)
        if (from->text_set[i]) {
            memcpy(into->text[i], from->text[i], TEXT_MAX);
            into->text_set[i] = true;
        }
    /* One GPU's "*" is closer than what every GPU says of one function. */
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i <= FN_COUNT; i++)
            if (src[kind][i] >= 0)
                dst[kind][i] = src[kind][i];
            else if (src[kind][FN_ALL] >= 0)
                dst[kind][i] = -1;
    for (int i = 0; i < from->fields_count && into->fields_count < FIELDS_MAX; i++)
        into->fields[into->fields_count++] = from->fields[i];
    for (int i = 0; i < from->metrics_count && into->metrics_count < FIELDS_MAX; i++)
        into->metrics[into->metrics_count++] = from->metrics[i];
    if (from->events_count) {
        memcpy(into->events, from->events, sizeof into->events);
        into->events_count = from->events_count;
    }
}

#define EITHER(own, every, otherwise) ((own) >= 0 ? (own) : (every) >= 0 ? (every) : (otherwise))

/* Defaults, then the profile under its load, then what every GPU says, then what this one says. */
static void resolve(struct reader *reader, int slot)
{
    struct gpu own = reader->scenario->gpu[slot], *gpu = &reader->scenario->gpu[slot];
    const struct gpu *every = &reader->every;
    unsigned int domain, bus, device, function;

    gpu_clear(gpu);
    gpu->profile = EITHER(own.profile, every->profile, 0);
    gpu->load = EITHER(own.load, every->load, LOAD_IDLE);
    gpu->present = EITHER(own.present, every->present, 1);
    gpu->lost = EITHER(own.lost, every->lost, 0);
    gpu->layout = EITHER(own.layout, every->layout, LAYOUT_HEADER);
    profile_apply(gpu, gpu->profile, gpu->load);
    gpu_merge(gpu, every);
    gpu_merge(gpu, &own);
    invent_identity(gpu, slot, (uint64_t)reader->scenario->host.identity_seed);
    if (sscanf(gpu->text[T_pci_bus_id], "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4) {
        reader->line = own.line ? own.line : every->line;
        refuse(reader, "pci_bus_id of gpu %d: '%s' is not DOMAIN:BUS:DEVICE.FUNCTION", slot,
               gpu->text[T_pci_bus_id]);
        return;
    }
    if (gpu->value[K_board_id] == AUTO) /* both captures have (bus << 8) | device */
        gpu->value[K_board_id] = bus << 8 | device;
    if (gpu->value[K_module_id] == AUTO)
        gpu->value[K_module_id] = slot + 1;
    if (gpu->value[K_minor_number] == AUTO)
        gpu->value[K_minor_number] = slot;
    reader->line = own.line ? own.line : every->line;
    set_instances(reader, gpu, gpu->text[T_mig_instances]);
    if (gpu->value[K_nvlink_active] == AUTO)
        gpu->value[K_nvlink_active] = gpu->value[K_nvlink_count];
}

struct scenario *scenario_parse(const char *text, size_t length, const char *file)
{
    struct reader *reader = calloc(1, sizeof *reader);
    struct scenario *scenario = calloc(1, sizeof *scenario);
    char *copy = malloc(length + 1), *next = copy, *line;
    bool failed;

    if (!reader || !scenario || !copy)
        abort();
    memcpy(copy, text, length);
    copy[length] = '\0';
    scenario->host = (struct host){.gpus = 8, .driver_version = "590.48.01",
                                   .nvml_version = "13.590.48.01", .cuda_driver_version = 13010,
                                   .driver_generation = 1, .driver_loaded = 1,
                                   .device_count = -1};
    rules_clear(&scenario->host.rules);
    gpu_clear(&reader->every);
    for (int slot = 0; slot < GPUS_MAX; slot++)
        gpu_clear(&scenario->gpu[slot]);
    reader->file = file;
    reader->scenario = scenario;
    while ((line = strsep(&next, "\n"))) {
        reader->line++;
        read_line(reader, line);
    }
    for (int slot = 0; slot < GPUS_MAX; slot++) {
        if (slot >= scenario->host.gpus && scenario->gpu[slot].line) {
            reader->line = scenario->gpu[slot].line;
            refuse(reader, "[gpu %d], but there are only %d (0 to %d)", slot,
                   scenario->host.gpus, scenario->host.gpus - 1);
        }
        resolve(reader, slot);
    }
    failed = reader->failed;
    free(copy);
    free(reader);
    if (failed) {
        free(scenario);
        return NULL;
    }
    return scenario;
}
