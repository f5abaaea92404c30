/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every mistake that a program can make and that the library can notice: each has a code, and a sentence that names what
 * was wrong. (What it can't notice is a pointer that it did not give, or gave and freed.)
 */

#include <diolkos.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checked = 0;

/* The code is the expected one, and the sentence has this in it. */
static void refused(int line, int32_t code, int32_t expected, const char *words)
{
    checked++;
    if (code != expected || strstr(diolkos_error(), words) == NULL) {
        fprintf(stderr, "errors.c:%d: %s instead of %s, and the sentence should have `%s` in it: %s\n", line,
                diolkos_code_name(code), diolkos_code_name(expected), words, diolkos_error());
        exit(1);
    }
}

static void check(int line, int holds, const char *what)
{
    checked++;
    if (!holds) {
        fprintf(stderr, "errors.c:%d: %s does not hold; last error: %s\n", line, what, diolkos_error());
        exit(1);
    }
}

#define REFUSED(call, expected, words) refused(__LINE__, (call), (expected), (words))
#define WRONG(call, words) refused(__LINE__, (call), DIOLKOS_ERROR_ARGUMENT, (words))
#define OK(call) check(__LINE__, (call) == DIOLKOS_OK, #call)
#define CHECK(what) check(__LINE__, (what), #what)

static const uint64_t dims[] = {2, 3};

static diolkos_tensor *tensor_of(const diolkos_client *client)
{
    diolkos_tensor *tensor = NULL;
    size_t bytes = 0;
    OK(diolkos_tensor_new(client, DIOLKOS_FP32, dims, 2, 0, &tensor));
    memset(diolkos_tensor_data(tensor, &bytes), 0, 24);
    CHECK(bytes == 24);
    return tensor;
}

static void connecting(const char *address)
{
    diolkos_client *client = (diolkos_client *)&checked; /* must become NULL */
    diolkos_options options = {.size = sizeof options};
    struct {
        diolkos_options known;
        uint64_t unknown;
    } newer = {.known = {.size = sizeof newer}};

    CHECK(strcmp(diolkos_error(), "") == 0 && diolkos_retry_after_us() == 0);
    WRONG(diolkos_connect(NULL, NULL, &client), "`address` is NULL");
    CHECK(client == NULL);
    WRONG(diolkos_connect(address, NULL, NULL), "`client` is NULL");
    WRONG(diolkos_connect("http://x", NULL, &client), "`http://x` is no address");
    WRONG(diolkos_connect("unix:", NULL, &client), "names no path");
    WRONG(diolkos_connect("unix:/\xff", NULL, &client), "`address` is not UTF-8");
    REFUSED(diolkos_connect("unix:/nowhere/d.sock", NULL, &client), DIOLKOS_ERROR_CONNECT, "/nowhere/d.sock");

    options.size = 0;
    WRONG(diolkos_connect(address, &options, &client), "the size of a diolkos_options is 0");
    options.size = sizeof options - 1;
    WRONG(diolkos_connect(address, &options, &client), "sizeof(diolkos_options)");
    options.size = (size_t)-1;
    WRONG(diolkos_connect(address, &options, &client), "sizeof(diolkos_options)");
    options.size = sizeof options;
    options.waiting = 3;
    WRONG(diolkos_connect(address, &options, &client), "3 is no diolkos_waiting");
    options.waiting = DIOLKOS_WAITING_BLOCKING;
    options.memory = -1;
    WRONG(diolkos_connect(address, &options, &client), "-1 is no diolkos_memory");
    options.memory = DIOLKOS_MEMORY_SHARED;
    options.name = "\xc3";
    WRONG(diolkos_connect(address, &options, &client), "`options.name` is not UTF-8");
    options.name = NULL;
    options.in_flight = 3;
    WRONG(diolkos_connect(address, &options, &client), "`options.in_flight` is 3");
    options.in_flight = 1024;
    WRONG(diolkos_connect(address, &options, &client), "a power of two, at most 512");

    /* A program that was compiled with a newer header: fine, as long as it sets nothing that is new. */
    OK(diolkos_connect(address, &newer.known, &client));
    diolkos_client_free(client);
    newer.unknown = 1;
    WRONG(diolkos_connect(address, &newer.known, &client), "does not know");
    CHECK(client == NULL);
}

static void asking(const diolkos_client *client)
{
    diolkos_model_list *models = NULL;
    diolkos_stats_list *stats = NULL;
    const diolkos_model_info *info = NULL;
    const diolkos_model_stats *entry = NULL;
    bool live = false;
    bool ready = false;
    int found = 0;

    WRONG(diolkos_health(NULL, &live, &ready), "`client` is NULL");
    OK(diolkos_health(client, NULL, NULL));
    OK(diolkos_health(client, &live, &ready));
    CHECK(live && ready);
    CHECK(!diolkos_shares_memory(NULL));
    WRONG(diolkos_load(NULL, "echo"), "`client` is NULL");
    WRONG(diolkos_load(client, NULL), "`name` is NULL");
    WRONG(diolkos_unload(NULL, "echo"), "`client` is NULL");
    WRONG(diolkos_unload(client, NULL), "`name` is NULL");
    REFUSED(diolkos_load(client, "echo"), DIOLKOS_STATUS_PERMISSION_DENIED, "");
    REFUSED(diolkos_unload(client, "echo"), DIOLKOS_STATUS_PERMISSION_DENIED, "");

    WRONG(diolkos_models(NULL, &models), "`client` is NULL");
    WRONG(diolkos_models(client, NULL), "`list` is NULL");
    OK(diolkos_models(client, &models));
    for (size_t at = 0; at < diolkos_model_list_count(models); at++) {
        OK(diolkos_model_list_at(models, at, &info));
        found += strcmp(info->name, "echo") == 0 && info->version == 1 && info->state == DIOLKOS_MODEL_READY;
    }
    CHECK(found == 1);
    WRONG(diolkos_model_list_at(models, diolkos_model_list_count(models), &info), "there is no model");
    CHECK(info == NULL);
    WRONG(diolkos_model_list_at(NULL, 0, &info), "`list` is NULL");
    WRONG(diolkos_model_list_at(models, 0, NULL), "`model` is NULL");
    CHECK(diolkos_model_list_count(NULL) == 0);
    diolkos_model_list_free(models);
    diolkos_model_list_free(NULL);

    WRONG(diolkos_stats(NULL, NULL, &stats), "`client` is NULL");
    WRONG(diolkos_stats(client, NULL, NULL), "`list` is NULL");
    REFUSED(diolkos_stats(client, "unknown", &stats), DIOLKOS_STATUS_NOT_FOUND, "unknown");
    OK(diolkos_stats(client, "echo", &stats));
    CHECK(diolkos_stats_list_count(stats) == 1 && diolkos_stats_list_count(NULL) == 0);
    OK(diolkos_stats_list_at(stats, 0, &entry));
    CHECK(strcmp(entry->name, "echo") == 0 && entry->version == 1);
    WRONG(diolkos_stats_list_at(stats, 1, &entry), "there is no entry 1");
    WRONG(diolkos_stats_list_at(NULL, 0, &entry), "`list` is NULL");
    WRONG(diolkos_stats_list_at(stats, 0, NULL), "`stats` is NULL");
    diolkos_stats_list_free(stats);
    diolkos_stats_list_free(NULL);
}

static void opening(const diolkos_client *client)
{
    diolkos_model *model = NULL;
    const diolkos_tensor_spec *spec = NULL;

    WRONG(diolkos_open(NULL, "echo", 0, &model), "`client` is NULL");
    WRONG(diolkos_open(client, NULL, 0, &model), "`name` is NULL");
    WRONG(diolkos_open(client, "echo", 0, NULL), "`model` is NULL");
    REFUSED(diolkos_open(client, "unknown", 0, &model), DIOLKOS_STATUS_NOT_FOUND, "unknown");
    REFUSED(diolkos_open(client, "echo", 77, &model), DIOLKOS_STATUS_NOT_FOUND, "77");
    CHECK(model == NULL);

    OK(diolkos_open(client, "blas.sgemm", 0, &model));
    CHECK(diolkos_model_version(model) == 1 && diolkos_model_version(NULL) == 0);
    CHECK(diolkos_model_input_count(model) == 3 && diolkos_model_input_count(NULL) == 0);
    CHECK(diolkos_model_output_count(model) == 1 && diolkos_model_output_count(NULL) == 0);
    OK(diolkos_model_input(model, 2, &spec));
    CHECK(strcmp(spec->name, "C") == 0 && spec->optional && !spec->any_type && spec->data_type == DIOLKOS_FP32);
    CHECK(spec->rank == 2 && spec->dims[0] == -1 && spec->dims[1] == -1);
    WRONG(diolkos_model_input(model, 3, &spec), "there is no input 3");
    CHECK(spec == NULL);
    WRONG(diolkos_model_input(NULL, 0, &spec), "`model` is NULL");
    WRONG(diolkos_model_input(model, 0, NULL), "`spec` is NULL");
    OK(diolkos_model_output(model, 0, &spec));
    CHECK(strcmp(spec->name, "result") == 0 && !spec->optional);
    WRONG(diolkos_model_output(model, 1, &spec), "there is no output 1");
    WRONG(diolkos_model_output(NULL, 0, &spec), "`model` is NULL");
    WRONG(diolkos_model_output(model, 0, NULL), "`spec` is NULL");
    diolkos_model_free(model);

    OK(diolkos_open(client, "echo", 0, &model));
    OK(diolkos_model_input(model, 0, &spec));
    CHECK(spec->rank == -1 && spec->dims == NULL && spec->any_type);
    diolkos_model_free(model);
    diolkos_model_free(NULL);
}

static void tensors(const diolkos_client *client)
{
    static const uint64_t huge[] = {UINT64_MAX, UINT64_MAX};
    static const uint64_t many[17] = {0};
    static const uint64_t more[] = {1024, 1024, 1024, 1024, 1024}; /* than any process has addresses */
    static const uint64_t none[] = {0};
    diolkos_tensor *tensor = NULL;
    size_t bytes = 1;

    WRONG(diolkos_tensor_new(NULL, DIOLKOS_FP32, dims, 2, 0, &tensor), "`client` is NULL");
    WRONG(diolkos_tensor_new(client, DIOLKOS_FP32, dims, 2, 0, NULL), "`tensor` is NULL");
    WRONG(diolkos_tensor_new(client, DIOLKOS_FP32, NULL, 2, 0, &tensor), "`dims` is NULL");
    WRONG(diolkos_tensor_new(client, DIOLKOS_FP32, (const uint64_t *)1, 2, 0, &tensor), "`dims` is not aligned");
    WRONG(diolkos_tensor_new(client, 0, dims, 2, 0, &tensor), "0 is no diolkos_data_type");
    WRONG(diolkos_tensor_new(client, 15, dims, 2, 0, &tensor), "15 is no diolkos_data_type");
    WRONG(diolkos_tensor_new(client, DIOLKOS_FP32, dims, 2, 23, &tensor), "has 24 bytes, and 23 were asked for");
    WRONG(diolkos_tensor_new(client, DIOLKOS_BYTES, dims, 2, 0, &tensor), "say how many bytes");
    WRONG(diolkos_tensor_new(client, DIOLKOS_INT8, huge, 2, 0, &tensor), "too large");
    WRONG(diolkos_tensor_new(client, DIOLKOS_INT8, many, 17, 0, &tensor), "`rank` is 17, and the limit is 16");
    REFUSED(diolkos_tensor_new(client, DIOLKOS_FP32, more, 5, 0, &tensor), DIOLKOS_ERROR_MEMORY, "4503599627370496");
    CHECK(tensor == NULL);
    CHECK(diolkos_tensor_data(NULL, &bytes) == NULL && bytes == 0);

    OK(diolkos_tensor_new(client, DIOLKOS_FP64, none, 1, 0, &tensor)); /* no elements */
    CHECK(diolkos_tensor_data(tensor, &bytes) != NULL && bytes == 0);
    diolkos_tensor_free(tensor);
    OK(diolkos_tensor_new(client, DIOLKOS_INT64, NULL, 0, 0, &tensor)); /* a single value */
    CHECK(diolkos_tensor_data(tensor, NULL) != NULL);
    CHECK(diolkos_tensor_data(tensor, &bytes) != NULL && bytes == 8);
    diolkos_tensor_free(tensor);
    OK(diolkos_tensor_new(client, DIOLKOS_BYTES, dims, 2, 24, &tensor));
    diolkos_tensor_free(tensor);
    diolkos_tensor_free(NULL);
}

static void requests(const diolkos_client *client)
{
    static const char *wanted[] = {"max", NULL};
    diolkos_param param = {"alpha", DIOLKOS_PARAM_TEXT, {0}};
    diolkos_request request = {sizeof request, 0, 0, 0, NULL, 0, NULL, 0};
    diolkos_input inputs[2] = {{"data", NULL}, {"data", NULL}};
    diolkos_input one = {"data", NULL};
    diolkos_model *minmax = NULL;
    diolkos_reply *reply = NULL;
    diolkos_pending *pending = NULL;
    diolkos_tensor *kept = NULL;

    OK(diolkos_open(client, "minmax", 0, &minmax));
    WRONG(diolkos_infer(NULL, &one, 1, NULL, &reply), "`model` is NULL");
    WRONG(diolkos_infer(minmax, NULL, 1, NULL, &reply), "`inputs` is NULL");
    WRONG(diolkos_infer(minmax, &one, (size_t)-1, NULL, &reply), "the limit is");
    WRONG(diolkos_infer(minmax, &one, 1, NULL, &reply), "`inputs[0].tensor` is NULL");
    REFUSED(diolkos_infer(minmax, NULL, 0, NULL, &reply), DIOLKOS_STATUS_INVALID_ARGUMENT, "data");
    WRONG(diolkos_submit(NULL, NULL, 0, NULL, &pending), "`model` is NULL");
    WRONG(diolkos_submit(minmax, NULL, 0, NULL, NULL), "`pending` is NULL");

    /* Whatever fails leaves the tensor where it was. */
    one.tensor = kept = tensor_of(client);
    WRONG(diolkos_infer(minmax, &one, 1, NULL, NULL), "`reply` is NULL");
    one.name = NULL;
    WRONG(diolkos_infer(minmax, &one, 1, NULL, &reply), "a name in `inputs` is NULL");
    one.name = "date";
    WRONG(diolkos_infer(minmax, &one, 1, NULL, &reply), "has no input `date`; it has `data`");
    WRONG(diolkos_submit(minmax, &one, 1, NULL, &pending), "has no input `date`; it has `data`");
    one.name = "data";
    inputs[0].tensor = inputs[1].tensor = kept;
    WRONG(diolkos_infer(minmax, inputs, 2, NULL, &reply), "inputs 0 and 1 are the same tensor");
    inputs[1].tensor = tensor_of(client);
    REFUSED(diolkos_infer(minmax, inputs, 2, NULL, &reply), DIOLKOS_STATUS_INVALID_ARGUMENT, "data");
    CHECK(reply == NULL && pending == NULL);
    CHECK(inputs[0].tensor == kept && inputs[1].tensor != NULL && one.tensor == kept);
    diolkos_tensor_free(inputs[1].tensor);

    request.size = 8;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "the size of a diolkos_request is 8");
    request.size = sizeof request;
    request.klass = 3;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "3 is no diolkos_class");
    request.klass = DIOLKOS_CLASS_BATCH;
    request.outputs_count = 1;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "`request.outputs` is NULL");
    request.outputs = &wanted[1];
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "a name in `request.outputs` is NULL");
    wanted[1] = "mean";
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "has no output `mean`; it has `min`, `max`");
    request.outputs = wanted;
    request.params_count = 1;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "`request.params` is NULL");
    request.params = &param;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "a text in `request.params` is NULL");
    param.kind = 6;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "6 is no diolkos_param_type");
    param.kind = DIOLKOS_PARAM_INT;
    param.name = NULL;
    WRONG(diolkos_infer(minmax, &one, 1, &request, &reply), "a name in `request.params` is NULL");
    request.params_count = 0;
    CHECK(one.tensor == kept && diolkos_tensor_data(kept, NULL) != NULL);

    /* It is as good as new. */
    OK(diolkos_infer(minmax, &one, 1, &request, &reply));
    CHECK(one.tensor == NULL && diolkos_reply_count(reply) == 1);
    diolkos_reply_free(reply);
    diolkos_model_free(minmax);
}

static void answers(const diolkos_client *client)
{
    static const uint64_t none[] = {0};
    diolkos_input input = {"data", tensor_of(client)};
    diolkos_model *minmax = NULL;
    diolkos_reply *reply = NULL;
    diolkos_pending *pending = NULL;
    diolkos_tensor *tensor = NULL;
    const diolkos_output *output = NULL;
    const diolkos_timing *timing = NULL;

    OK(diolkos_open(client, "minmax", 0, &minmax));
    OK(diolkos_submit(minmax, &input, 1, NULL, &pending));
    WRONG(diolkos_wait(NULL, 0, &reply), "`pending` is NULL");
    WRONG(diolkos_wait(pending, 0, NULL), "`reply` is NULL");
    WRONG(diolkos_pending_take_input(pending, 0, &tensor), "has not failed");
    OK(diolkos_wait(pending, DIOLKOS_FOREVER, &reply));
    tensor = (diolkos_tensor *)&checked; /* must become NULL */
    WRONG(diolkos_pending_take_input(pending, 0, &tensor), "has not failed");
    CHECK(tensor == NULL);
    WRONG(diolkos_pending_take_input(NULL, 0, &tensor), "`pending` is NULL");
    WRONG(diolkos_pending_take_input(pending, 0, NULL), "`tensor` is NULL");
    {
        diolkos_reply *second = NULL;
        WRONG(diolkos_wait(pending, DIOLKOS_FOREVER, &second), "answered already");
        CHECK(second == NULL);
    }
    diolkos_pending_free(pending);
    diolkos_pending_free(NULL);

    CHECK(diolkos_reply_count(reply) == 2 && diolkos_reply_count(NULL) == 0);
    CHECK(diolkos_reply_version(reply) == 1 && diolkos_reply_version(NULL) == 0);
    OK(diolkos_reply_output(reply, 1, &output));
    CHECK(strcmp(output->name, "max") == 0 && output->rank == 0 && output->bytes == 4);
    WRONG(diolkos_reply_output(reply, 2, &output), "there is no output 2: there are 2");
    CHECK(output == NULL);
    WRONG(diolkos_reply_output(NULL, 0, &output), "`reply` is NULL");
    WRONG(diolkos_reply_output(reply, 0, NULL), "`output` is NULL");
    OK(diolkos_reply_named(reply, "min", &output));
    CHECK(strcmp(output->name, "min") == 0 && *(const float *)output->data == 0.0f);
    WRONG(diolkos_reply_named(reply, "mean", &output), "there is no output `mean`: the reply has `min`, `max`");
    WRONG(diolkos_reply_named(reply, NULL, &output), "`name` is NULL");
    WRONG(diolkos_reply_named(NULL, "min", &output), "`reply` is NULL");
    WRONG(diolkos_reply_named(reply, "min", NULL), "`output` is NULL");
    OK(diolkos_reply_timing(reply, &timing));
    CHECK(timing->queue_ns + timing->copy_in_ns + timing->compute_ns + timing->copy_out_ns > 0);
    WRONG(diolkos_reply_timing(NULL, &timing), "`reply` is NULL");
    WRONG(diolkos_reply_timing(reply, NULL), "`timing` is NULL");
    WRONG(diolkos_reply_take_input(NULL, 0, &tensor), "`reply` is NULL");
    WRONG(diolkos_reply_take_input(reply, 0, NULL), "`tensor` is NULL");
    WRONG(diolkos_reply_take_input(reply, 1, &tensor), "there is no input 1");
    OK(diolkos_reply_take_input(reply, 0, &tensor));
    {
        diolkos_tensor *second = NULL;
        WRONG(diolkos_reply_take_input(reply, 0, &second), "input 0 was taken already");
    }
    diolkos_reply_free(reply);
    diolkos_reply_free(NULL);

    diolkos_tensor_free(tensor);

    /* A request that was sent and failed gives its tensor back. */
    OK(diolkos_tensor_new(client, DIOLKOS_FP32, none, 1, 0, &input.tensor));
    REFUSED(diolkos_infer(minmax, &input, 1, NULL, &reply), DIOLKOS_STATUS_INVALID_ARGUMENT, "data");
    CHECK(input.tensor != NULL);
    OK(diolkos_submit(minmax, &input, 1, NULL, &pending));
    CHECK(input.tensor == NULL);
    REFUSED(diolkos_wait(pending, 60000, &reply), DIOLKOS_STATUS_INVALID_ARGUMENT, "data");
    WRONG(diolkos_pending_take_input(pending, 1, &tensor), "there is no input 1");
    OK(diolkos_pending_take_input(pending, 0, &tensor));
    WRONG(diolkos_pending_take_input(pending, 0, &input.tensor), "input 0 was taken already");
    WRONG(diolkos_wait(pending, 0, &reply), "answered already");
    diolkos_pending_free(pending);
    diolkos_tensor_free(tensor);
    diolkos_model_free(minmax);
}

/* Everything in the wrong order: what is left keeps working. */
static void freeing(const char *address)
{
    diolkos_client *client = NULL;
    diolkos_model *minmax = NULL;
    diolkos_pending *pending = NULL;
    diolkos_pending *cancelled = NULL;
    diolkos_reply *reply = NULL;
    diolkos_tensor *tensor = NULL;
    diolkos_tensor *spare = NULL;
    diolkos_input input = {"data", NULL};
    const diolkos_output *output = NULL;

    OK(diolkos_connect(address, NULL, &client));
    OK(diolkos_open(client, "minmax", 0, &minmax));
    spare = tensor_of(client);
    input.tensor = tensor_of(client);
    OK(diolkos_submit(minmax, &input, 1, NULL, &cancelled));
    input.tensor = tensor_of(client);
    diolkos_client_free(client);
    diolkos_client_free(NULL);
    OK(diolkos_submit(minmax, &input, 1, NULL, &pending));
    diolkos_model_free(minmax);
    OK(diolkos_wait(pending, DIOLKOS_FOREVER, &reply));
    diolkos_pending_free(pending);
    diolkos_pending_free(cancelled);
    OK(diolkos_reply_take_input(reply, 0, &tensor));
    OK(diolkos_reply_output(reply, 0, &output));
    CHECK(*(const float *)output->data == 0.0f);
    diolkos_reply_free(reply);
    memset(diolkos_tensor_data(tensor, NULL), 1, 24);
    memset(diolkos_tensor_data(spare, NULL), 1, 24);
    diolkos_tensor_free(tensor);
    diolkos_tensor_free(spare);
}

int main(int argc, char **argv)
{
    const char *address = argc > 1 ? argv[1] : "env";
    diolkos_client *client = NULL;

    CHECK(strlen(diolkos_version()) >= 5);
    CHECK(strcmp(diolkos_code_name(DIOLKOS_STATUS_BUSY), "busy") == 0);
    CHECK(strcmp(diolkos_code_name(12345), "unknown") == 0);
    CHECK(strcmp(diolkos_data_type_name(DIOLKOS_BF16), "BF16") == 0);
    connecting(address);
    OK(diolkos_connect(address, NULL, &client));
    asking(client);
    opening(client);
    tensors(client);
    requests(client);
    answers(client);
    freeing(address);
    diolkos_client_free(client);
    printf("%d checks\n", checked);
    return 0;
}
