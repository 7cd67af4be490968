#include "ggml/matrix_types.h"

#include <utility>
#include <vector>

#include "core/status.h"
#include "ggml/quantize.h"

namespace whisperq::ggml {
namespace {

// What the loader of this thread is still to be given, last first.
thread_local std::vector<ggml_type> pending;
thread_local bool active = false;

using Names = std::vector<const char*>;

// The order in which whisper.cpp's loader (whisper_model_load) creates its matrices.
const Names kEncoderLayer = {"mlp.0", "mlp.2", "attn.query", "attn.key", "attn.value", "attn.out"};
const Names kDecoderLayer = {"mlp.0",
                             "mlp.2",
                             "attn.query",
                             "attn.key",
                             "attn.value",
                             "attn.out",
                             "cross_attn.query",
                             "cross_attn.key",
                             "cross_attn.value",
                             "cross_attn.out"};

class CreationOrder {
  public:
    explicit CreationOrder(const MatrixTypes& types) : types_(types) {
        add_layers("encoder.blocks.", kEncoderLayer);
        add("decoder.token_embedding.weight");
        add_layers("decoder.blocks.", kDecoderLayer);
        if (order_.size() != types.size()) throw Error(Status::internal, "matrix types: unknown names among them");
    }
    std::vector<ggml_type> take() { return std::move(order_); }

  private:
    void add(const std::string& name) {
        const auto found = types_.find(name);
        if (found == types_.end()) throw Error(Status::internal, "matrix types: " + name + " is missing");
        order_.push_back(type_named(found->second));
    }

    void add_layers(const std::string& prefix, const Names& names) {
        for (int layer = 0; types_.count(prefix + std::to_string(layer) + ".mlp.0.weight") != 0; ++layer) {
            for (const char* name : names) add(prefix + std::to_string(layer) + "." + name + ".weight");
        }
    }

    const MatrixTypes& types_;
    std::vector<ggml_type> order_;
};

}  // namespace

MatrixTypesScope::MatrixTypesScope(const MatrixTypes& types) {
    if (types.empty()) return;
    const std::vector<ggml_type> order = CreationOrder(types).take();
    pending.assign(order.rbegin(), order.rend());
    active = true;
}

MatrixTypesScope::~MatrixTypesScope() {
    pending.clear();
    active = false;
}

ggml_tensor* new_matrix(ggml_context* context, ggml_type type, int64_t n_columns, int64_t n_rows) {
    // Biases and positions are f32 by whisper.cpp's own word; the matrices are f16, as file_type() told it.
    if (!active || type == GGML_TYPE_F32 || pending.empty())
        return ggml_new_tensor_2d(context, type, n_columns, n_rows);
    const ggml_type own = pending.back();
    pending.pop_back();
    return ggml_new_tensor_2d(context, own, n_columns, n_rows);
}

ggml_type file_type(ggml_ftype ftype) {
    return active ? GGML_TYPE_F16 : ggml_ftype_to_ggml_type(ftype);
}

}  // namespace whisperq::ggml
