#include "support/catch.hpp"

#include <fovea/core/problem.hpp>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/parts.hpp"

using fovea::Extents;
using fovea::Index;
using support::refusal;

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A legal call: 2 batches, 6 heads on 3, 4 queries on 5 keys, widths 7 and 8.
struct Call {
  Extents q{2, 6, 4, 7}, k{2, 3, 5, 7}, v{2, 3, 5, 8}, out{2, 6, 4, 8}, log_sum{2, 6, 4, 1};
};

// What make_problem says about the extents of a call, and whether it wrote to out or log_sum.
std::string said(const Call& call, bool with_log_sum = true) {
  const auto size = [](const Extents& e) { return std::size_t(e.batch * e.heads * e.length * e.dim + 1); };
  std::vector<float> q(size(call.q)), k(size(call.k)), v(size(call.v)), out(size(call.out), 42.f),
      log_sum(size(call.log_sum), 42.f);
  auto o = fovea::view(out.data(), call.out);
  auto s = fovea::view(log_sum.data(), call.log_sum);
  auto text = refusal([&] {
    const auto qv = fovea::view(q.data(), call.q);
    const auto kv = fovea::view(k.data(), call.k), vv = fovea::view(v.data(), call.v);
    if (with_log_sum) {
      fovea::make_problem("fovea::f", qv, kv, vv, fovea::with_log_sum(o, s));
    } else {
      fovea::make_problem("fovea::f", qv, kv, vv, o);
    }
  });
  for (const float x : out)
    if (x != 42.f) text += ", output touched";
  for (const float x : log_sum)
    if (x != 42.f) text += ", log_sum touched";
  return text;
}

template <class Change>
std::string said_after(Change&& change) {
  Call call;
  change(call);
  return said(call);
}

}  // namespace

TEST_CASE("make_problem gives the views of a legal call", "[core][problem]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(2, 6, 4, 7), k(2, 3, 5, 7), v(2, 3, 5, 8), out(2, 6, 4, 8);
  Eigen::Tensor<float, 3, Eigen::RowMajor> log_sum(2, 6, 4);
  const auto problem = fovea::make_problem("fovea::f", q, k, v, fovea::with_log_sum(out, log_sum));
  CHECK(problem.q.data == q.data());
  CHECK(problem.k.data == k.data());
  CHECK(problem.v.data == v.data());
  CHECK(problem.out.data == out.data());
  CHECK(problem.log_sum.data == log_sum.data());
  CHECK(problem.log_sum.row(1, 5, 3) == &log_sum(1, 5, 3));
  CHECK(problem.group == 2);
  const auto shape = problem.shape();
  CHECK(shape.batch == 2);
  CHECK(shape.heads == 6);
  CHECK(shape.kv_heads == 3);
  CHECK(shape.queries == 4);
  CHECK(shape.keys == 5);
}

TEST_CASE("without with_log_sum a problem has no place for log-sums", "[core][problem]") {
  Matrix q(4, 7), k(5, 7), v(5, 8), out(4, 8);
  CHECK(fovea::make_problem("fovea::f", q, k, v, out).log_sum.data == nullptr);
}

TEST_CASE("beside matrices the log-sum is a vector", "[core][problem]") {
  Matrix q(4, 7), k(5, 7), v(5, 8), out(4, 8);
  Eigen::VectorXf log_sum(4);
  const auto problem = fovea::make_problem("fovea::f", q, k, v, fovea::with_log_sum(out, log_sum));
  CHECK(problem.log_sum.row(0, 0, 3) == &log_sum(3));
}

TEST_CASE("views of different layouts meet in one problem", "[core][problem]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(2, 6, 4, 7), k(2, 5, 3, 7), out(2, 6, 4, 8);
  Eigen::Tensor<float, 4> v(8, 5, 3, 2);
  const auto problem = fovea::make_problem("fovea::f", q, fovea::bthd(k), fovea::dthb(v), out);
  CHECK(problem.k.row(1, 2, 4) == &k(1, 4, 2, 0));
  CHECK(problem.v.row(1, 2, 4) == &v(0, 4, 2, 1));
}

TEST_CASE("the offset of the queries is M - N bottom right and 0 top left", "[core][problem]") {
  const fovea::Shape shape{1, 1, 1, 4, 9};
  CHECK(shape.offset(fovea::Alignment::bottom_right) == 5);
  CHECK(shape.offset(fovea::Alignment::top_left) == 0);
  CHECK(fovea::Shape{1, 1, 1, 9, 4}.offset(fovea::Alignment::bottom_right) == -5);
}

TEST_CASE("a legal call is accepted and touches nothing", "[core][problem]") { CHECK(said({}) == "accepted"); }

TEST_CASE("k with another batch than q is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.k.batch = 3; }) == "fovea::f: k must have the batch of q, wanted 2, got 3");
}

TEST_CASE("v with another batch than q is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.v.batch = 1; }) == "fovea::f: v must have the batch of q, wanted 2, got 1");
}

TEST_CASE("keys of width zero are refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.q.dim = c.k.dim = 0; }) == "fovea::f: the key width must be positive, got 0");
}

TEST_CASE("k with another width than q is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.k.dim = 8; }) == "fovea::f: k must have the width of q, wanted 7, got 8");
}

TEST_CASE("v with other heads than k is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.v.heads = 6; }) == "fovea::f: v must have the heads of k, wanted 3, got 6");
}

TEST_CASE("v with another length than k is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.v.length = 4; }) == "fovea::f: v must have the length of k, wanted 5, got 4");
}

TEST_CASE("no heads of k for some heads of q are refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.k.heads = c.v.heads = 0; }) == "fovea::f: k must have at least one head, got 0");
}

TEST_CASE("heads of q that are no multiple of the heads of k are refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.k.heads = c.v.heads = 4; }) ==
        "fovea::f: the heads of q must be a multiple of the heads of k, wanted a multiple of 4, got 6");
  CHECK(said_after([](Call& c) { c.k.heads = c.v.heads = 12; }) ==
        "fovea::f: the heads of q must be a multiple of the heads of k, wanted a multiple of 12, got 6");
}

TEST_CASE("out with another batch, heads or length than q is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.out.batch = 3; }) == "fovea::f: out must have the batch of q, wanted 2, got 3");
  CHECK(said_after([](Call& c) { c.out.heads = 3; }) == "fovea::f: out must have the heads of q, wanted 6, got 3");
  CHECK(said_after([](Call& c) { c.out.length = 5; }) == "fovea::f: out must have the length of q, wanted 4, got 5");
}

TEST_CASE("out with another width than v is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.out.dim = 7; }) == "fovea::f: out must have the width of v, wanted 8, got 7");
}

TEST_CASE("a log_sum of the wrong shape is refused", "[core][problem]") {
  const std::string wanted = "fovea::f: log_sum must have one number for each query, wanted [2, 6, 4], got ";
  CHECK(said_after([](Call& c) { c.log_sum.batch = 1; }) == wanted + "[1, 6, 4]");
  CHECK(said_after([](Call& c) { c.log_sum.heads = 3; }) == wanted + "[2, 3, 4]");
  CHECK(said_after([](Call& c) { c.log_sum.length = 5; }) == wanted + "[2, 6, 5]");
}

TEST_CASE("a log_sum view with more than one number for each query is refused", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.log_sum.dim = 2; }).find("log_sum must have one number for each query") !=
        std::string::npos);
}

TEST_CASE("empty extents are legal", "[core][problem]") {
  CHECK(said_after([](Call& c) { c.q.batch = c.k.batch = c.v.batch = c.out.batch = c.log_sum.batch = 0; }) ==
        "accepted");
  CHECK(said_after([](Call& c) { c.q.heads = c.out.heads = c.log_sum.heads = 0; }) == "accepted");
  CHECK(said_after([](Call& c) { c.q.heads = c.out.heads = c.log_sum.heads = c.k.heads = c.v.heads = 0; }) ==
        "accepted");
  CHECK(said_after([](Call& c) { c.q.length = c.out.length = c.log_sum.length = 0; }) == "accepted");
  CHECK(said_after([](Call& c) { c.k.length = c.v.length = 0; }) == "accepted");
  CHECK(said_after([](Call& c) { c.v.dim = c.out.dim = 0; }) == "accepted");
}

TEST_CASE("a problem of more than 2^31 elements has its sizes", "[core][problem]") {
  float memory[8] = {};
  const Index keys = Index{3} << 31, heads = Index{1} << 32;
  const fovea::View<float> q{memory, 1, heads, 1, 7, 0, 0, 0}, kv{memory, 1, heads / 2, keys, 7, 0, 0, 0};
  const auto problem = fovea::make_problem("fovea::f", q, kv, kv, q);
  CHECK(problem.shape().heads == heads);
  CHECK(problem.shape().keys == keys);
  CHECK(problem.group == 2);
  CHECK(problem.shape().offset(fovea::Alignment::bottom_right) == keys - 1);
}
