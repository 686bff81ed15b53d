#include "synthetic.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numbers>
#include <random>
#include <vector>

namespace bench {
namespace {

using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::RowVectorXd;

// The queries of all heads of a kv head, one head after the other, and its keys and values.
struct Group {
  Rows q, k, v;  // [heads * N x D], [M x D], [M x E]
  Index queries;
  std::mt19937_64 engine;

  Index position(Index row) const { return row % queries + k.rows() - queries; }
  Index any(Index count) { return std::uniform_int_distribution<Index>(0, count - 1)(engine); }
  double uniform() { return std::uniform_real_distribution<double>()(engine); }
  Rows normal(Index rows, Index columns) {
    std::normal_distribution<double> draw;
    return Rows::NullaryExpr(rows, columns, [&] { return draw(engine); });
  }
  void noise(double size) {
    q = size * normal(q.rows(), q.cols());
    k = size * normal(k.rows(), k.cols());
    v = normal(v.rows(), v.cols());
  }
  // Length of q and k along a direction that they share, for this score.
  double length(double score) const { return std::sqrt(score * std::sqrt(double(q.cols()))); }
};

void needles(Group& g) {
  g.noise(0.7);
  constexpr Index count = 16;
  Rows directions = g.normal(count, g.k.cols());
  directions.rowwise().normalize();
  std::vector<Index> places;
  for (Index n = 0; n < count; ++n) {
    places.push_back(g.any(g.k.rows()));
    g.k.row(places.back()) += g.length(10) * directions.row(n);
  }
  for (Index i = 0; i < g.q.rows(); ++i) {
    const Index n = g.any(count);
    if (g.uniform() < 0.75 && places[std::size_t(n)] <= g.position(i)) g.q.row(i) += g.length(10) * directions.row(n);
  }
}

// cos and sin of phases in neighbouring columns from `first` on; a product of two such rows is a sum of cosines of
// differences.
void add_waves(Rows& x, Index row, Index first, const Vector& phases, double size) {
  for (Index f = 0; f < phases.size(); ++f) {
    x(row, first + 2 * f) += size * std::cos(phases[f]);
    x(row, first + 2 * f + 1) += size * std::sin(phases[f]);
  }
}

void vertical_slash(Group& g) {
  g.noise(0.5);
  for (Index n = 0; n < 64; ++n) g.k(n == 0 ? 0 : g.any(g.k.rows()), 0) = g.length(8);
  g.q.col(0).setConstant(g.length(8));
  const Index distance = g.any(std::max<Index>(1, g.k.rows() / 4)), waves = 3 * g.k.cols() / 8;
  const Vector frequencies = Vector::NullaryExpr(waves, [&] { return g.uniform() * std::numbers::pi / 8; });
  const double size = g.length(10) / std::sqrt(double(waves));
  for (Index j = 0; j < g.k.rows(); ++j) add_waves(g.k, j, 1, double(j) * frequencies, size);
  for (Index i = 0; i < g.q.rows(); ++i) add_waves(g.q, i, 1, double(g.position(i) - distance) * frequencies, size);
}

void clusters(Group& g) {
  g.noise(0.5);
  constexpr Index count = 64;
  Rows centres = g.normal(count, g.k.cols());
  centres.rowwise().normalize();
  const Rows meanings = g.normal(count, g.v.cols());
  for (Index j = 0; j < g.k.rows(); ++j) {
    const Index c = g.any(count);
    g.k.row(j) += g.length(8) * centres.row(c);
    g.v.row(j) = meanings.row(c) + 0.5 * g.v.row(j);
  }
  for (Index i = 0; i < g.q.rows(); ++i) g.q.row(i) += g.length(8) * centres.row(g.any(count));
}

void grid(Group& g) {
  g.noise(0.3);
  const Index side = std::max<Index>(1, Index(std::lround(std::sqrt(double(g.k.rows()))))), waves = g.k.cols() / 2;
  const auto place = [&](Index token) { return Eigen::RowVector2d(double(token / side), double(token % side)); };
  const Eigen::Matrix2Xd frequencies = g.normal(2, waves) / std::max(1.0, double(side) / 16);
  const Eigen::Matrix2Xd slow = g.normal(2, g.v.cols()) * (4.0 / double(side));
  const double size = g.length(10) / std::sqrt(double(waves));
  for (Index j = 0; j < g.k.rows(); ++j) {
    add_waves(g.k, j, 0, place(j) * frequencies, size);
    g.v.row(j) = (place(j) * slow).array().sin().matrix() + 0.3 * g.v.row(j);
  }
  for (Index i = 0; i < g.q.rows(); ++i) add_waves(g.q, i, 0, place(g.position(i)) * frequencies, size);
}

const std::map<std::string, std::function<void(Group&)>>& kinds() {
  static const std::map<std::string, std::function<void(Group&)>> all = {
      {"needles", needles}, {"vertical_slash", vertical_slash}, {"clusters", clusters}, {"grid", grid}};
  return all;
}

}  // namespace

bool is_synthetic(const std::string& kind) { return kinds().count(kind) > 0; }

Synthetic synthetic(const Shape& s) {
  using Tensor = Eigen::Tensor<double, 4, Eigen::RowMajor>;
  Synthetic all{Tensor(s.batch, s.heads, s.queries, s.key_dim), Tensor(s.batch, s.kv_heads, s.keys, s.key_dim),
                Tensor(s.batch, s.kv_heads, s.keys, s.value_dim)};
  const Index heads = s.heads / s.kv_heads;
  std::uint64_t seed = 0;
  for (Index b = 0; b < s.batch; ++b) {
    for (Index kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
      Group g{Rows(heads * s.queries, s.key_dim), Rows(s.keys, s.key_dim), Rows(s.keys, s.value_dim), s.queries,
              std::mt19937_64(++seed)};
      kinds().at(s.data)(g);
      std::copy_n(g.q.data(), g.q.size(), &all.q(b, kv_head * heads, 0, 0));
      std::copy_n(g.k.data(), g.k.size(), &all.k(b, kv_head, 0, 0));
      std::copy_n(g.v.data(), g.v.size(), &all.v(b, kv_head, 0, 0));
    }
  }
  return all;
}

}  // namespace bench
