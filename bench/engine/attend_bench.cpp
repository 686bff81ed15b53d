// Masks at one shape: their time beside that of the dense problem shows what a tile that is not needed still costs.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/window.hpp>

#include "bench.hpp"

namespace {

const bool added =
    bench::add("engine/attend", bench::mask_shapes(), [](const auto& in, auto&& out, const auto& executor) {
      namespace mask = fovea::mask;
      const bench::Pattern& pattern = in.shape.pattern;
      const auto attend = [&](const auto& recipe) { fovea::attend(in.q, in.k, in.v, out, recipe, executor); };
      const auto softmax = fovea::softmax();
      if (pattern.window > 0) {
        attend(softmax.mask(mask::causal() & mask::window(pattern.window)));
      } else if (pattern.label == "document") {
        attend(softmax.mask(mask::document(pattern.documents)));
      } else if (pattern.label == "document_causal") {
        attend(softmax.mask(mask::document(pattern.documents) & mask::causal()));
      } else {
        attend(softmax);
      }
    });

}  // namespace
