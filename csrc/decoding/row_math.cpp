#include "decoding/row_math.h"

#include "core/status.h"

namespace whisperq::decoding {

void refuse_logits() {
    throw Error(Status::inference,
                "the decoder computed logits that are not finite numbers; the model's weights are damaged or out of "
                "range: convert it again, or use a type of more bits");
}

}  // namespace whisperq::decoding
