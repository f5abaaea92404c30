/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diolkos.h: the client of a Diolkos daemon, which lends a node's devices to sandboxes.
 *
 *     diolkos_connect ──> client ── diolkos_open ──> model ── diolkos_infer ─────────────────────────> reply
 *                           │                          └───── diolkos_submit ──> pending ── diolkos_wait ──^
 *                           └── diolkos_tensor_new ──> tensor: filled in place, given to a request
 *
 * Returned codes. A function that can fail returns 0 (DIOLKOS_OK), a positive number if the daemon refused, or a negative
 * one if this side failed: see diolkos_code. diolkos_error() then says why. What goes through an out parameter is NULL
 * after a failure. NULL where something is needed is an error, too, and never a crash.
 *
 * Ownership. Each client, model, tensor, pending, reply and list that a function gives is freed with the function of its
 * name that ends in _free, once and in any order: each keeps alive what it needs. Tensors are also taken by a request
 * that is sent; then NULL stands in their place in the array of inputs, so that it is always right to free what is there.
 * Whatever is reached through a const pointer belongs to the handle that it came from. Texts are UTF-8; those that are
 * passed in are copied.
 *
 * Threads. Any number may use a client and its models at once. Everything else is used by one thread at a time, which
 * need not be the one that made it; functions that take a const pointer may be called at once. The library starts no
 * threads and handles no signals. After fork(), only the parent may go on using what it had.
 *
 * Sizes. Structs that a program fills in and that may grow begin with their size. Structs that the library fills in are
 * reached through pointers, and may grow at their end. So a program runs with newer libraries, too.
 */

#ifndef DIOLKOS_H
#define DIOLKOS_H

/* Made of crates/libdiolkos/src by its test `header`; what is changed here is lost. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Wait for ever.
#define DIOLKOS_FOREVER -1

// reconnect_ms: don't connect again.
#define DIOLKOS_NO_RECONNECT 4294967295

// What a function returns. 0: it did what it says. Positive: the daemon refused. Negative: this side failed.
typedef enum diolkos_code {
    // It worked.
    DIOLKOS_OK = 0,
    // The request itself is wrong; sent again unchanged, it fails again.
    DIOLKOS_STATUS_INVALID_ARGUMENT = 1,
    // No such model or version.
    DIOLKOS_STATUS_NOT_FOUND = 2,
    // A limit is reached now; diolkos_retry_after_us() tells when to send it again.
    DIOLKOS_STATUS_BUSY = 3,
    // The request's timeout passed before it began.
    DIOLKOS_STATUS_DEADLINE_EXCEEDED = 4,
    // It was cancelled.
    DIOLKOS_STATUS_CANCELLED = 5,
    // Known, and not offered by this daemon or model.
    DIOLKOS_STATUS_UNSUPPORTED = 6,
    // The model exists, but does not serve now.
    DIOLKOS_STATUS_UNAVAILABLE = 7,
    // This client may not do that.
    DIOLKOS_STATUS_PERMISSION_DENIED = 8,
    // More than the daemon will ever give.
    DIOLKOS_STATUS_TOO_LARGE = 9,
    // The daemon or a backend is at fault.
    DIOLKOS_STATUS_INTERNAL = 10,
    // The work ended without an answer.
    DIOLKOS_STATUS_ABORTED = 11,
    // An argument is wrong; nothing was sent.
    DIOLKOS_ERROR_ARGUMENT = -1,
    // No daemon answers at the address.
    DIOLKOS_ERROR_CONNECT = -2,
    // The connection ended while something waited for an answer.
    DIOLKOS_ERROR_LOST = -3,
    // The answer did not come in the time that was given to diolkos_wait(). It can be waited for again.
    DIOLKOS_ERROR_TIMEOUT = -4,
    // There is no memory for the tensor, or for the outputs.
    DIOLKOS_ERROR_MEMORY = -5,
    // The model was replaced by one that takes or gives other tensors; open it again.
    DIOLKOS_ERROR_CHANGED = -6,
    // A defect of this library; the text tells which.
    DIOLKOS_ERROR_DEFECT = -7,
} diolkos_code;

// The type of every element of a tensor. Elements are little-endian and lie row by row.
typedef enum diolkos_data_type {
    // One byte, 0 or 1.
    DIOLKOS_BOOL = 1,
    // uint8_t
    DIOLKOS_UINT8 = 2,
    // uint16_t
    DIOLKOS_UINT16 = 3,
    // uint32_t
    DIOLKOS_UINT32 = 4,
    // uint64_t
    DIOLKOS_UINT64 = 5,
    // int8_t
    DIOLKOS_INT8 = 6,
    // int16_t
    DIOLKOS_INT16 = 7,
    // int32_t
    DIOLKOS_INT32 = 8,
    // int64_t
    DIOLKOS_INT64 = 9,
    // IEEE 754 binary16
    DIOLKOS_FP16 = 10,
    // float
    DIOLKOS_FP32 = 11,
    // double
    DIOLKOS_FP64 = 12,
    // The upper 16 bits of a float.
    DIOLKOS_BF16 = 13,
    // Strings of any length: each is a uint32_t, its length, and that many bytes, without a gap.
    DIOLKOS_BYTES = 14,
} diolkos_data_type;

// How a client waits for an answer.
typedef enum diolkos_waiting {
    // Looks for a while if answers have been coming quickly and nobody else wants the core, then sleeps.
    DIOLKOS_WAITING_ADAPTIVE = 0,
    // Sleeps at once: least processor time, and about a wake-up more of latency.
    DIOLKOS_WAITING_BLOCKING = 1,
    // Looks until the answer is there: a core for itself, and the least latency.
    DIOLKOS_WAITING_POLLING = 2,
} diolkos_waiting;

// Where tensors lie.
typedef enum diolkos_memory {
    // In memory that the daemon shares, where the socket allows that; otherwise as with PRIVATE.
    DIOLKOS_MEMORY_SHARED = 0,
    // In this process's own, from which they are sent over the socket.
    DIOLKOS_MEMORY_PRIVATE = 1,
} diolkos_memory;

// Which of one's own requests go first.
typedef enum diolkos_class {
    // Nothing was said.
    DIOLKOS_CLASS_STANDARD = 0,
    // Somebody waits for the answer.
    DIOLKOS_CLASS_INTERACTIVE = 1,
    // Throughput counts and latency does not.
    DIOLKOS_CLASS_BATCH = 2,
} diolkos_class;

// Which member of a diolkos_param_value counts.
typedef enum diolkos_param_type {
    // flag
    DIOLKOS_PARAM_BOOL = 1,
    // integer
    DIOLKOS_PARAM_INT = 2,
    // natural
    DIOLKOS_PARAM_UINT = 3,
    // number
    DIOLKOS_PARAM_DOUBLE = 4,
    // text
    DIOLKOS_PARAM_TEXT = 5,
} diolkos_param_type;

// What a model does.
typedef enum diolkos_model_state {
    // It serves.
    DIOLKOS_MODEL_READY = 1,
    // It is being loaded.
    DIOLKOS_MODEL_LOADING = 2,
    // It is not loaded.
    DIOLKOS_MODEL_UNAVAILABLE = 3,
    // It could not be loaded.
    DIOLKOS_MODEL_FAILED = 4,
} diolkos_model_state;

// A connection to a daemon, connected again if it is lost. Any number of threads may use one at once.
typedef struct diolkos_client diolkos_client;

// A model or a built-in operation, opened. Any number of threads may use one at once.
typedef struct diolkos_model diolkos_model;

// The models that a daemon has. It does not change.
typedef struct diolkos_model_list diolkos_model_list;

// A request that was sent. One thread at a time may use it.
typedef struct diolkos_pending diolkos_pending;

// What came of a request. One thread at a time may use it; functions that take a const one, at once.
typedef struct diolkos_reply diolkos_reply;

// What models did. It does not change.
typedef struct diolkos_stats_list diolkos_stats_list;

// A tensor to be filled and sent. One thread at a time may use it.
typedef struct diolkos_tensor diolkos_tensor;

// How a client connects. Set size to sizeof(diolkos_options) and the rest to 0; then set what is to differ.
typedef struct diolkos_options {
    // sizeof(diolkos_options)
    size_t size;
    // How it waits: a diolkos_waiting.
    int32_t waiting;
    // Where tensors lie: a diolkos_memory.
    int32_t memory;
    // Requests that may be under way at once: a power of two, at most 512. 0: 64.
    uint32_t in_flight;
    // How long to try to connect again when the connection is lost, in milliseconds, before requests fail. 0: 5000.
    // DIOLKOS_NO_RECONNECT: not at all.
    uint32_t reconnect_ms;
    // Bytes of the first region of shared memory, whose pages are made at once; more are made as they are needed, each as
    // large as all before it, but 64 MiB at most unless this or a tensor is larger. 0: 1 MiB.
    uint64_t region_bytes;
    // Name of this client in the daemon's log. NULL: the executable's.
    const char *name;
    // The tenant that this client speaks for, if it is a bridge. NULL: what DIOLKOS_TENANT says in the environment, else
    // itself.
    const char *tenant;
    // Not 0: the kernel is not asked to put pages of shared memory together into huge ones.
    int32_t no_huge_pages;
} diolkos_options;

// A model that the daemon has.
typedef struct diolkos_model_info {
    // Its name.
    const char *name;
    // A version of it; 0 if it has none.
    uint64_t version;
    // Why it does not serve, or "".
    const char *reason;
    // What it does: a diolkos_model_state.
    int32_t state;
} diolkos_model_info;

// What a model did so far.
typedef struct diolkos_model_stats {
    // Its name.
    const char *name;
    // Which version.
    uint64_t version;
    // Requests that succeeded.
    uint64_t succeeded;
    // Requests that did not.
    uint64_t failed;
    // Runs of the backend; fewer than requests where it ran several at once.
    uint64_t executions;
    // Waiting of all of them for their turn, in nanoseconds.
    uint64_t queue_ns;
    // Bringing their inputs to where the backend reads them.
    uint64_t copy_in_ns;
    // Computing.
    uint64_t compute_ns;
    // Handing their outputs over.
    uint64_t copy_out_ns;
} diolkos_model_stats;

// A tensor that a model takes or gives.
typedef struct diolkos_tensor_spec {
    // Its name.
    const char *name;
    // Type of its elements: a diolkos_data_type.
    int32_t data_type;
    // Number of dimensions; -1 if any number will do.
    int32_t rank;
    // Their lengths, outermost first; -1 where any length will do.
    const int64_t *dims;
    // The model runs without it.
    bool optional;
    // Elements may be of every type, and data_type is only the usual one.
    bool any_type;
} diolkos_tensor_spec;

// An input of a request.
typedef struct diolkos_input {
    // Its name in the model.
    const char *name;
    // Its value. Once the request is sent, it belongs to that, and NULL stands here.
    struct diolkos_tensor *tensor;
} diolkos_input;

// The value of a parameter.
typedef union diolkos_param_value {
    // DIOLKOS_PARAM_BOOL: 0 is false, everything else is true.
    int32_t flag;
    // DIOLKOS_PARAM_INT
    int64_t integer;
    // DIOLKOS_PARAM_UINT
    uint64_t natural;
    // DIOLKOS_PARAM_DOUBLE
    double number;
    // DIOLKOS_PARAM_TEXT: UTF-8.
    const char *text;
} diolkos_param_value;

// A parameter of a request.
typedef struct diolkos_param {
    // Its name.
    const char *name;
    // Which member of value counts: a diolkos_param_type.
    int32_t kind;
    // Its value.
    union diolkos_param_value value;
} diolkos_param;

// What a request can say besides its inputs. Set size to sizeof(diolkos_request) and the rest to 0; then set what is
// to differ. What it points to is copied.
typedef struct diolkos_request {
    // sizeof(diolkos_request)
    size_t size;
    // Which of one's own requests go first: a diolkos_class. (`class` is a word of C++.)
    int32_t klass;
    // Not 0: running it twice is not the same as running it once, so it is not sent again when the connection is lost.
    int32_t once;
    // A request that has not begun after so many microseconds never runs. 0: no limit.
    uint64_t timeout_us;
    // Names of the wanted outputs, in the wanted order.
    const char *const *outputs;
    // How many there are. 0: all outputs of the model, in its order.
    size_t outputs_count;
    // Parameters for the operation.
    const struct diolkos_param *params;
    // How many there are.
    size_t params_count;
} diolkos_request;

// An output of a reply.
typedef struct diolkos_output {
    // Its name.
    const char *name;
    // Type of its elements: a diolkos_data_type.
    int32_t data_type;
    // Number of dimensions.
    int32_t rank;
    // Their lengths, outermost first.
    const uint64_t *dims;
    // Its elements, row by row, where the daemon put them.
    const void *data;
    // Bytes of all elements.
    size_t bytes;
} diolkos_output;

// Where the time of a request went in the daemon.
typedef struct diolkos_timing {
    // Waiting for its turn, in nanoseconds.
    uint64_t queue_ns;
    // Bringing inputs to where the backend reads them.
    uint64_t copy_in_ns;
    // Computing.
    uint64_t compute_ns;
    // Handing outputs over.
    uint64_t copy_out_ns;
} diolkos_timing;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the library, such as "0.1.0".
const char *diolkos_version(void);

// Why the last call of this thread that failed did so: a sentence, or "" if none has failed. It is valid until the next
// call of this thread that fails; calls that succeed leave it alone, and so does freeing.
const char *diolkos_error(void);

// When it is worth sending again what the last failed call of this thread was about, in microseconds; 0 if the daemon
// did not say. It does with DIOLKOS_STATUS_BUSY.
uint64_t diolkos_retry_after_us(void);

// Name of a diolkos_code, such as "busy", for logs.
const char *diolkos_code_name(int32_t code);

// Name of a diolkos_data_type, such as "FP32".
const char *diolkos_data_type_name(int32_t data_type);

// Connects to a daemon. The address is unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, or env: what $DIOLKOS_ENDPOINT says, or the default
// socket. Options may be NULL.
int32_t diolkos_connect(const char *address,
                        const struct diolkos_options *options,
                        struct diolkos_client **client);

// Frees a client; NULL is fine. The connection ends when everything that came from it is freed, too.
void diolkos_client_free(struct diolkos_client *client);

// Whether tensors lie in memory that the daemon shares.
bool diolkos_shares_memory(const struct diolkos_client *client);

// Asks the daemon how it is. Live: it answers. Ready: every model that it was started with was loaded, or failed to be.
// Either may be NULL.
int32_t diolkos_health(const struct diolkos_client *client,
                       bool *live,
                       bool *ready);

// Loads a model that is installed, where the daemon lets clients do that, and waits until it is loaded.
int32_t diolkos_load(const struct diolkos_client *client,
                     const char *name);

// Unloads a model, where the daemon lets clients do that.
int32_t diolkos_unload(const struct diolkos_client *client, const char *name);

// Asks which models there are.
int32_t diolkos_models(const struct diolkos_client *client, struct diolkos_model_list **list);

// How many models there are; 0 for NULL.
size_t diolkos_model_list_count(const struct diolkos_model_list *list);

// One of them. It is valid until the list is freed.
int32_t diolkos_model_list_at(const struct diolkos_model_list *list,
                              size_t index,
                              const struct diolkos_model_info **model);

// Frees a list; NULL is fine.
void diolkos_model_list_free(struct diolkos_model_list *list);

// Asks what a model did so far; NULL for all of them.
int32_t diolkos_stats(const struct diolkos_client *client,
                      const char *name,
                      struct diolkos_stats_list **list);

// How many entries there are; 0 for NULL.
size_t diolkos_stats_list_count(const struct diolkos_stats_list *list);

// One of them. It is valid until the list is freed.
int32_t diolkos_stats_list_at(const struct diolkos_stats_list *list,
                              size_t index,
                              const struct diolkos_model_stats **stats);

// Frees a list; NULL is fine.
void diolkos_stats_list_free(struct diolkos_stats_list *list);

// Opens a model or a built-in operation. Version 0 is whichever is current when a request comes.
int32_t diolkos_open(const struct diolkos_client *client,
                     const char *name,
                     uint64_t version,
                     struct diolkos_model **model);

// Frees a model; NULL is fine. The last use of it closes it in the daemon, and waits for that.
void diolkos_model_free(struct diolkos_model *model);

// The version that was current when it was opened; 0 for NULL.
uint64_t diolkos_model_version(const struct diolkos_model *model);

// How many inputs it has; 0 for NULL.
size_t diolkos_model_input_count(const struct diolkos_model *model);

// How many outputs it has; 0 for NULL.
size_t diolkos_model_output_count(const struct diolkos_model *model);

// One of its inputs. It is valid until the model is freed.
int32_t diolkos_model_input(const struct diolkos_model *model,
                            size_t index,
                            const struct diolkos_tensor_spec **spec);

// One of its outputs. It is valid until the model is freed.
int32_t diolkos_model_output(const struct diolkos_model *model,
                             size_t index,
                             const struct diolkos_tensor_spec **spec);

// Makes a tensor of a diolkos_data_type, with `rank` lengths of dimensions in `dims`, outermost first. Bytes is the size
// of all elements; 0 means what follows from type and shape, which it does for all types but DIOLKOS_BYTES. The elements
// are whatever was there before: fill all of them.
int32_t diolkos_tensor_new(const struct diolkos_client *client,
                           int32_t data_type,
                           const uint64_t *dims,
                           size_t rank,
                           size_t bytes,
                           struct diolkos_tensor **tensor);

// Where the elements of a tensor lie, to be filled in place, and how many bytes they have; `bytes` may be NULL. The place
// stays until the tensor is taken or freed, and is aligned for every type. NULL only for NULL.
void *diolkos_tensor_data(struct diolkos_tensor *tensor,
                          size_t *bytes);

// Frees a tensor; NULL is fine.
void diolkos_tensor_free(struct diolkos_tensor *tensor);

// Sends a request and waits for its reply, for as long as that takes. The inputs may be in any order; the request may be
// NULL. If this succeeds, the tensors belong to the reply, and NULL stands in their places in `inputs`; if it fails, they
// are where they were, with the values that they had.
int32_t diolkos_infer(const struct diolkos_model *model,
                      struct diolkos_input *inputs,
                      size_t count,
                      const struct diolkos_request *request,
                      struct diolkos_reply **reply);

// Sends a request. Many can be under way at once; if as many are as the client may have, this waits for one of them.
// Arguments are those of diolkos_infer(), and tensors are taken if it succeeds.
int32_t diolkos_submit(const struct diolkos_model *model,
                       struct diolkos_input *inputs,
                       size_t count,
                       const struct diolkos_request *request,
                       struct diolkos_pending **pending);

// Waits for the reply, for so many milliseconds at most; 0 only looks, DIOLKOS_FOREVER has no end. After
// DIOLKOS_ERROR_TIMEOUT the request is still under way, and can be waited for again. After anything else it has
// ended, and only diolkos_pending_take_input() and diolkos_pending_free() are left.
int32_t diolkos_wait(struct diolkos_pending *pending,
                     int64_t timeout_ms,
                     struct diolkos_reply **reply);

// Takes back an input of a request that failed, to send it again, for instance. Inputs are counted as they were
// given, and each can be taken once. Those of a request that succeeded are in its reply.
int32_t diolkos_pending_take_input(struct diolkos_pending *pending,
                                   size_t index,
                                   struct diolkos_tensor **tensor);

// Frees a request; NULL is fine. If it is still under way, that cancels it.
void diolkos_pending_free(struct diolkos_pending *pending);

// How many outputs there are; 0 for NULL.
size_t diolkos_reply_count(const struct diolkos_reply *reply);

// One output, in the order that was asked for, or that of the model. It is valid until the reply is freed.
int32_t diolkos_reply_output(const struct diolkos_reply *reply,
                             size_t index,
                             const struct diolkos_output **output);

// One output by its name. It is valid until the reply is freed.
int32_t diolkos_reply_named(const struct diolkos_reply *reply,
                            const char *name,
                            const struct diolkos_output **output);

// Version of the model that ran; 0 for NULL.
uint64_t diolkos_reply_version(const struct diolkos_reply *reply);

// Where the time went in the daemon. It is valid until the reply is freed.
int32_t diolkos_reply_timing(const struct diolkos_reply *reply,
                             const struct diolkos_timing **timing);

// Takes back an input of the request, to be filled and sent again. Inputs are counted as they were given, and each can
// be taken once. The outputs are left as they are.
int32_t diolkos_reply_take_input(struct diolkos_reply *reply,
                                 size_t index,
                                 struct diolkos_tensor **tensor);

// Frees a reply, and the inputs that were not taken; NULL is fine.
void diolkos_reply_free(struct diolkos_reply *reply);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DIOLKOS_H */
