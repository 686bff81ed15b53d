#include <fovea/parts/state/matrix_state.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Extents;
using fovea::Index;
using fovea::MatrixState;

TEST_CASE("a state begins as zeros, rows on cache lines", "[state]") {
  MatrixState<float> state(2, 3, 4, 5);
  const auto all = state.view();
  CHECK(all.extents() == Extents{2, 3, 4, 5});
  CHECK(all.length_stride == 16);
  bool zero = true, aligned = true;
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 3; ++h) {
      for (Index d = 0; d < 4; ++d) {
        aligned = aligned && reinterpret_cast<std::uintptr_t>(all.row(b, h, d)) % 64 == 0;
        for (Index e = 0; e < 5; ++e) zero = zero && state(b, h, d, e) == 0;
      }
    }
  }
  CHECK(zero);
  CHECK(aligned);
}

TEST_CASE("a state is copied with its numbers", "[state]") {
  MatrixState<double> state(1, 2, 3, 4);
  state(0, 1, 2, 3) = 7;
  const MatrixState<double> copy = state;
  state(0, 1, 2, 3) = 8;
  CHECK(copy(0, 1, 2, 3) == 7);
  CHECK(state(0, 1, 2, 3) == 8);
  CHECK(copy.view().data != state.view().data);
}

TEST_CASE("a state with sums has one more column", "[state]") {
  MatrixState<float> state(1, 1, 3, 16, true);
  CHECK(state.value_dim() == 16);
  CHECK(state.view().dim == 17);
  CHECK(state.view().length_stride == 32);
  state(0, 0, 2, 16) = 1;
  CHECK(state.view().row(0, 0, 2)[16] == 1);
}

TEST_CASE("a state of no shape fits every call, others only theirs", "[state]") {
  const Extents wanted{1, 2, 3, 4};
  const auto refused = [&](const MatrixState<float>& state, bool sums) {
    return support::refusal([&] { fovea::state::check_shape("f", state, wanted, sums); });
  };
  CHECK(MatrixState<float>().empty());
  CHECK(refused({}, true) == "accepted");
  CHECK(refused(MatrixState<float>(1, 2, 3, 4), false) == "accepted");
  CHECK(refused(MatrixState<float>(1, 2, 3, 4, true), true) == "accepted");
  CHECK(refused(MatrixState<float>(1, 2, 3, 4), true) == "f: the state must have a column of sums");
  CHECK(refused(MatrixState<float>(0, 2, 3, 4), false) ==
        "f: the state must have the shape of the call, wanted [1, 2, 3, 4], got [0, 2, 3, 4]");
  CHECK(refused(MatrixState<float>(1, 2, 3, 3, true), true) ==
        "f: the state must have the shape of the call, wanted [1, 2, 3, 4], got [1, 2, 3, 3]");
}

TEST_CASE("an output with a state is taken apart", "[state]") {
  int out = 0;
  MatrixState<float> state;
  auto both = fovea::with_state(out, state);
  CHECK(&fovea::state::output(both) == &out);
  CHECK(&fovea::state::output(out) == &out);
  CHECK(fovea::state::of<float>(both) == &state);
  CHECK(fovea::state::of<float>(out) == nullptr);
}
