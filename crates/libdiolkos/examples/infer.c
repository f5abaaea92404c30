/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a tensor in memory that it shares with the daemon, has its least and greatest element found, and prints them.
 *
 *     cc infer.c $(pkg-config --cflags --libs diolkos) -o infer
 *     ./infer unix:/run/user/1000/diolkos/diolkos.sock
 */

#include <diolkos.h>

#include <inttypes.h>
#include <stdio.h>

static int failed(const char *what, int32_t code)
{
    fprintf(stderr, "%s: %s: %s\n", what, diolkos_code_name(code), diolkos_error());
    return 1;
}

int main(int argc, char **argv)
{
    const char *address = argc > 1 ? argv[1] : "env";
    diolkos_client *client = NULL;
    diolkos_model *model = NULL;
    diolkos_input input = {"data", NULL};
    diolkos_reply *reply = NULL;
    const diolkos_output *output = NULL;
    const uint64_t dims[] = {1000, 1000};
    size_t bytes = 0;
    float *elements = NULL;
    int32_t code = 0;
    int status = 0;

    if ((code = diolkos_connect(address, NULL, &client)) != 0) {
        return failed("connect", code);
    }
    if ((code = diolkos_open(client, "minmax", 0, &model)) != 0) {
        status = failed("open", code);
        goto done;
    }
    if ((code = diolkos_tensor_new(client, DIOLKOS_FP32, dims, 2, 0, &input.tensor)) != 0) {
        status = failed("tensor", code);
        goto done;
    }
    elements = diolkos_tensor_data(input.tensor, &bytes);
    for (size_t at = 0; at < bytes / sizeof *elements; at++) {
        elements[at] = (float)at / 1000.0f;
    }
    if ((code = diolkos_infer(model, &input, 1, NULL, &reply)) != 0) {
        status = failed("infer", code);
        goto done;
    }
    for (size_t at = 0; at < diolkos_reply_count(reply); at++) {
        if ((code = diolkos_reply_output(reply, at, &output)) != 0) {
            status = failed("output", code);
            goto done;
        }
        printf("%s = %g\n", output->name, *(const float *)output->data);
    }
    printf("%zu bytes, in %s memory; version %" PRIu64 "\n", bytes,
           diolkos_shares_memory(client) ? "shared" : "private", diolkos_reply_version(reply));

done:
    diolkos_reply_free(reply);
    diolkos_tensor_free(input.tensor); /* NULL, if it was sent */
    diolkos_model_free(model);
    diolkos_client_free(client);
    return status;
}
